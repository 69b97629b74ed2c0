"""What `preceptor try` says of rows."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import pytest

from preceptor_clients.contract.schemas import FeedbackItem
from preceptor_trainer.collect.context import InView
from preceptor_trainer.collect.labelling import Labelled
from preceptor_trainer.collect.rollouts import Attempt, Rollout
from preceptor_trainer.data.rows import Row
from preceptor_trainer.objectives.distil import DistIL
from preceptor_trainer.tasks.task import ScoredTask
from preceptor_trainer.trial.findings import _leaks, _overlap, _successes_alone


def row(prompt: str, number: int = 0, **columns: Any) -> Row:
    chat = ({"role": "user", "content": prompt},)
    return Row(id=f"{prompt}-{number}", messages=chat, payload=columns, where=f"t.jsonl:{number}")


def test_an_answer_in_its_own_prompt_is_found() -> None:
    rows = [row(f"What is {n} + {n}? (It is {2 * n}.)", answer=2 * n) for n in range(10, 20)]

    [finding] = _leaks(rows, None, "")

    assert "10 of 10 rows hold their own answer (column 'answer')" in finding.what


def test_a_column_that_the_run_names_as_reference_counts_as_an_answer() -> None:
    rows = [row(f"say {word}", solved=word) for word in ("red", "green", "blue")]

    assert _leaks(rows, None, "") == []
    assert len(_leaks(rows, "solved", "")) == 1


@pytest.mark.parametrize(
    "rows",
    [
        [row("Which? A) red B) green", answer="A"), row("Which? A) one B) two", answer="B")],
        [row("What is 2 * 2?", answer=4), row("What is 7 * 1?", answer=7)],
        [row("is 112 even?", answer=12), row("is 341 odd?", answer=34)],
        [row("true?", answer=True), row("false?", answer=None)],
    ],
    ids=["letters of choices", "a coincidence", "parts of numbers", "no texts"],
)
def test_what_only_looks_like_a_leak_is_none(rows: list[Row]) -> None:
    assert _leaks(rows, None, "") == []


def test_a_user_turn_that_names_the_answers_column_is_a_leak() -> None:
    rows = [row("2 plus 2 is", answer=4), row("3 plus 3 is", answer=6)]

    assert len(_leaks(rows, None, "{question} {answer}")) == 1


def test_held_out_rows_that_are_trained_on_are_counted_by_id_and_by_text() -> None:
    train = [row("one"), row("two", 7), row("three")]
    held_out = [row("one"), row("two", 8)]

    [finding] = _overlap(train, held_out)

    assert finding.what.startswith("2 held-out rows are trained on, such as t.jsonl:0")
    assert _overlap([row("three")], held_out) == []


def labelled(score: float, *, taught: bool) -> Labelled:
    rollout = Rollout(
        rollout_id="r",
        group_id="g",
        group=0,
        problem=row("1 + 1"),
        payload_sha256="",
        prompt_ids=[1],
        response_ids=np.array([1], np.int32),
        response_text="2",
        behaviour_logprobs=np.zeros(1, np.float32),
        owned=np.ones(1, np.bool_),
        finish_reason="stop",
        step=0,
        weights="w/l0/0",
    )
    verdict = FeedbackItem(id="f", kind="verdict", score=score, source="judge", version="1")
    return Labelled(
        attempt=Attempt(rollout=rollout, items=(verdict,), task=ScoredTask(sources=("judge",))),
        in_view=InView((), frozenset()),
        target=cast("Any", object()) if taught else None,
    )


def test_successes_without_a_teacher_are_found_where_failures_have_one() -> None:
    rows = [labelled(1.0, taught=False), labelled(0.0, taught=True)]

    [finding] = _successes_alone(rows, DistIL())

    assert finding.what.startswith("1 of 1 solved attempt have no target")
    assert finding.remedy == "set teacher.own_solution = true"
    assert _successes_alone(rows, DistIL(future="none")) == []
    assert _successes_alone([labelled(1.0, taught=True), rows[1]], DistIL()) == []
    assert _successes_alone(rows[:1], DistIL()) == []
