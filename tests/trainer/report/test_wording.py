from typing import Any

import pytest

from preceptor_trainer.report.run_files import Interval, Summary
from preceptor_trainer.report.wording import (
    duration,
    one_glance,
    points,
    readable,
    signed,
    story,
    verdict,
)


def gain(mean: float, low: float, high: float) -> dict[str, float]:
    return {"mean": mean, "low": low, "high": high}


def told(content: dict[str, Any], first: dict[str, float], eighth: dict[str, float]) -> str:
    changed = content | {"gain": {"pass@1": first, "pass@8": eighth}}
    return " ".join(story(Summary.model_validate(changed), feedback_in_view=True))


def test_a_gain_above_zero_is_called_one(summary_content: dict[str, Any]) -> None:
    text = told(summary_content, gain(0.231, 0.198, 0.264), gain(0.09, 0.05, 0.12))

    assert "34.5 % of cases before and 57.6 % after" in text.replace(
        "\N{NARROW NO-BREAK SPACE}", " "
    )
    assert "lies above 0" in text


def test_an_interval_with_zero_in_it_is_never_called_a_gain(
    summary_content: dict[str, Any],
) -> None:
    text = told(summary_content, gain(0.02, -0.01, 0.05), gain(0.0, -0.02, 0.02))

    assert "does not show that training helped" in text
    assert "lies above 0" not in text


def test_a_loss_is_told_as_one(summary_content: dict[str, Any]) -> None:
    text = told(summary_content, gain(-0.1, -0.13, -0.07), gain(-0.1, -0.12, -0.08))

    assert "made the student worse" in text
    assert "pass@8 fell" not in text


def test_fewer_problems_solved_in_many_tries_is_said_beside_a_gain(
    summary_content: dict[str, Any],
) -> None:
    text = told(summary_content, gain(0.1, 0.05, 0.15), gain(-0.05, -0.08, -0.02))

    assert "pass@8 fell" in text


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0.01, 0.1, "better"), (0.0, 0.1, "unclear"), (-0.1, 0.0, "unclear"), (-0.2, -0.1, "worse")],
)
def test_a_verdict_needs_the_whole_interval(low: float, high: float, expected: str) -> None:
    assert verdict(Interval(mean=(low + high) / 2, low=low, high=high)) == expected


def test_numbers_carry_their_sign_and_zero_carries_none() -> None:
    assert [points(0.231), points(-0.0312), signed(-0.004, 2)] == ["+23.1", "−3.1", "0.00"]


def test_durations_are_read_at_a_glance() -> None:
    shown = [duration(s).replace("\N{NARROW NO-BREAK SPACE}", " ") for s in (3.14, 186.4, 7800)]

    assert shown == ["3.1 s", "3 min 06 s", "2 h 10 min"]


def test_no_character_of_a_model_is_invisible() -> None:
    assert one_glance(" \n\x00") == "␣↵\\u0000"
    assert one_glance("") == "∅"
    assert readable("a\n\u202eb") == "a\n\\u202eb"


def test_a_run_that_asked_no_expert_is_not_told_as_if_it_had(
    summary_content: dict[str, Any],
) -> None:
    config = summary_content["config"] | {"experts": []}
    text = told(summary_content | {"config": config}, gain(0.1, 0.05, 0.15), gain(0.1, 0.05, 0.15))

    assert "no expert was asked" in text
    assert "would have written" not in text
