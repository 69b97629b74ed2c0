"""The vLLM expert's options are checked before an engine starts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from preceptor_clients.vllm_expert.config import VLLMExpertConfig
from preceptor_clients.vllm_expert.service import VLLMExpert


@pytest.fixture
def model(tmp_path: Path) -> str:
    (tmp_path / "config.json").write_text("{}")
    return str(tmp_path)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("model", "/nowhere"),
        ("weights_roots", "/weights"),
        ("max_top_k", 0),
        ("max_context", 1),
        ("engine", {"max_logprobs": 5}),
        ("rounding", "up"),
    ],
)
def test_a_wrong_option_is_named(model: str, field: str, value: Any) -> None:
    with pytest.raises(ValueError, match=field):
        VLLMExpertConfig(**({"model": model} | {field: value}))


def test_rounding_by_chance_is_for_weights_of_16_bits_alone(model: str) -> None:
    assert VLLMExpertConfig(model=model, rounding="stochastic").dtype == "bfloat16"
    with pytest.raises(ValueError, match=r"rounding.*dtype is float32"):
        VLLMExpertConfig(model=model, rounding="stochastic", dtype="float32")


def test_a_chunk_is_as_long_as_its_logits_fit(model: str) -> None:
    config = VLLMExpertConfig(model=model, logits_mb=1024)

    chunk = config.chunk_tokens(vocab_rows=151_936)

    assert chunk * 151_936 * 12 <= 1024 << 20 < (chunk + 1) * 151_936 * 12
    with pytest.raises(ValueError, match="logits_mb"):
        VLLMExpertConfig(model=model, logits_mb=100).chunk_tokens(vocab_rows=151_936)


def test_without_vllm_the_service_says_where_it_belongs(model: str) -> None:
    with pytest.raises(ValueError, match=r"an environment of its own.*preceptor\[vllm\]"):
        VLLMExpert(model=model)
