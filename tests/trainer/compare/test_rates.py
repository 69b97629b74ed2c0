"""Learning rates that an earlier comparison chose."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from preceptor_trainer.compare.command import with_rates_of
from preceptor_trainer.recipes.methods import DISTIL, GRPO


def test_methods_take_the_rates_that_an_earlier_comparison_chose(tmp_path: Path) -> None:
    report = tmp_path / "compare.json"
    report.write_text(json.dumps({"methods": {"distil": {"lr": 0.01}, "grpo": {"lr": 0.02}}}))

    distil, grpo = with_rates_of(report, (DISTIL, GRPO))

    assert (distil.learning_rates, grpo.learning_rates) == ((0.01,), (0.02,))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"methods": {"distil": {"lr": 0.01}}}', "has no grpo"),
        ('{"methods": []}', r"no compare\.json"),
        ("steps,loss", r"no compare\.json"),
    ],
)
def test_a_file_without_a_methods_rate_is_named(tmp_path: Path, text: str, reason: str) -> None:
    report = tmp_path / "other.json"
    report.write_text(text)

    with pytest.raises(ValueError, match=f"rates_of: .*other.json.*{reason}"):
        with_rates_of(report, (DISTIL, GRPO))
