"""Prompts that are too long are counted, and left out or cut; a token is a character here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from preceptor_trainer.collect.prompts import Fitted, NoPromptFits, PromptLimit, fitted, limit_of
from preceptor_trainer.tasks.task import Problem


@dataclass(frozen=True, kw_only=True)
class Row:
    id: str
    messages: Sequence[dict[str, str]]
    payload: dict[str, Any] = field(default_factory=dict[str, Any])
    answer: str = "42"


def row(name: str, text: str) -> Row:
    system = {"role": "system", "content": "s"}
    return Row(id=name, messages=(system, {"role": "user", "content": text}), payload={"of": name})


def prompt_ids(messages: Sequence[dict[str, str]]) -> list[int]:
    return [ord(char) for message in messages for char in f"<{message['content']}>"]


def fit(limit: PromptLimit | None, *texts: str) -> Fitted:
    return fitted([row(text[-1], text) for text in texts], prompt_ids, limit)


def text_of(problem: Problem) -> str:
    return problem.messages[-1]["content"]


def test_a_long_prompt_is_left_out_and_counted() -> None:
    found = fit(PromptLimit(max_tokens=8), "abc", "abcd", "xyz")

    assert [text_of(problem) for problem in found.problems] == ["abc", "xyz"]
    assert found.metrics == {"prompts/skipped": 1.0}


def test_a_cut_prompt_keeps_its_end_and_everything_else() -> None:
    found = fit(PromptLimit(max_tokens=8, when_longer="cut"), "abc", "0123456789")

    short, cut = found.problems
    assert (text_of(short), text_of(cut)) == ("abc", "789")
    assert cut.messages[0] == {"role": "system", "content": "s"}
    assert (cut.id, cut.payload, getattr(cut, "answer", None)) == ("9", {"of": "9"}, "42")
    assert found.metrics == {"prompts/cut": 1.0}


def test_a_cut_prompt_is_as_long_as_the_limit_allows() -> None:
    for max_tokens in range(6, 20):
        found = fit(PromptLimit(max_tokens=max_tokens, when_longer="cut"), "x" * 40)

        assert len(prompt_ids(found.problems[0].messages)) == max_tokens


def test_what_fits_is_not_touched_and_not_counted() -> None:
    found = fit(PromptLimit(max_tokens=8, when_longer="cut"), "abc", "xyz")

    assert found.problems == [row("c", "abc"), row("z", "xyz")]
    assert found.metrics == {}


@pytest.mark.parametrize(("when", "max_tokens"), [("skip", 8), ("cut", 5)])
def test_a_step_without_any_prompt_is_an_error_that_names_the_settings(
    when: Any, max_tokens: int
) -> None:
    with pytest.raises(NoPromptFits, match=r"none of 2 prompts .* the longest has 15; set long_"):
        fit(PromptLimit(max_tokens=max_tokens, when_longer=when), "0123456789", "012345")


@pytest.mark.parametrize(
    ("positions", "max_prompt", "wanted"),
    [(64, None, 48), (64, 20, 20), (64, 60, 48), (None, 7, 7)],
)
def test_the_limit_leaves_room_for_a_whole_response(
    positions: int | None, max_prompt: int | None, wanted: int
) -> None:
    found = limit_of(positions, max_prompt=max_prompt, max_new_tokens=16, when_longer="skip")

    assert found == PromptLimit(max_tokens=wanted)


def test_without_any_limit_every_prompt_is_run() -> None:
    assert limit_of(None, max_prompt=None, max_new_tokens=16, when_longer="skip") is None
    assert len(fit(None, "x" * 400).problems) == 1


def test_responses_that_leave_no_room_for_a_prompt_are_refused() -> None:
    with pytest.raises(NoPromptFits, match="max_new_tokens"):
        limit_of(64, max_prompt=None, max_new_tokens=64, when_longer="skip")
