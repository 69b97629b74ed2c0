"""The student that is shipped: small, imperfect, and better with feedback in view."""

import hashlib
import json
from typing import Any

import pytest
from safetensors import safe_open

from preceptor_trainer.student import STUDENT_DIR

MEASURED = STUDENT_DIR.parent / "measured.json"


@pytest.fixture(scope="module")
def measured() -> dict[str, Any]:
    return json.loads(MEASURED.read_text())


def test_its_folder_is_at_most_eight_megabytes_of_a_qwen3_in_bfloat16():
    config = json.loads((STUDENT_DIR / "config.json").read_text())
    with safe_open(STUDENT_DIR / "model.safetensors", framework="pt") as weights:
        kinds = {weights.get_slice(name).get_dtype() for name in weights.keys()}  # noqa: SIM118

    assert sum(path.stat().st_size for path in STUDENT_DIR.iterdir()) <= 8e6
    assert config["architectures"] == ["Qwen3ForCausalLM"]
    assert kinds == {"BF16"}


def test_the_figures_are_those_of_the_shipped_weights(measured: dict[str, Any]):
    weights = (STUDENT_DIR / "model.safetensors").read_bytes()

    assert measured["weights_sha256"] == hashlib.sha256(weights).hexdigest()


def test_it_solves_between_a_fifth_and_a_half_of_the_held_out_problems(measured: dict[str, Any]):
    assert measured["split"] == "held_out"
    assert measured["problems"] >= 200
    assert measured["pass@1"]["low"] >= 0.2
    assert measured["pass@1"]["high"] <= 0.5


def test_its_own_trace_and_a_demonstration_help_it_after_a_failure(measured: dict[str, Any]):
    assert measured["trace_ratio"]["low"] >= 1.3
    assert measured["demonstration_ratio"]["low"] >= 1.5
