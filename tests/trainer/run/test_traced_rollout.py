"""Which token a run without targets names for tracing."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from preceptor_clients.contract.schemas import FeedbackItem
from preceptor_trainer.collect.labelling import Labelled
from preceptor_trainer.learner.learner import StepResult
from preceptor_trainer.run.journal import Journal
from preceptor_trainer.run.traced_rollout import Traced, choose_traced, read_traced
from preceptor_trainer.tasks.task import ScoredTask

from .test_worked_rollout import CREDIT, labelled

NO_GATEWAY: Any = None
NO_CONFIG: Any = None
STEP = StepResult(loss=0.0, metrics={}, grad_norm=0.0, lr=0.1, skipped=False, credits=(CREDIT,))


def attempt(name: str, group: str, score: float | None, **fields: Any) -> Labelled:
    row = labelled(name)
    items = (
        ()
        if score is None
        else (FeedbackItem(id=name, kind="verdict", score=score, source="judge", version="1"),)
    )
    logprobs = np.array([-0.5, -2.0], np.float32)
    rollout = replace(
        row.attempt.rollout, group_id=group, **{"behaviour_logprobs": logprobs} | fields
    )
    task = ScoredTask(sources=("judge",))
    return replace(
        row, attempt=replace(row.attempt, rollout=rollout, items=items, task=task), target=None
    )


def test_a_solved_attempt_beside_failed_ones_is_named_by_its_least_likely_token() -> None:
    rows = [
        attempt("all right", "g0", 1.0),
        attempt("failed", "g1", 0.0),
        attempt("solved", "g1", 1.0),
    ]

    found = choose_traced(rows)

    assert found == Traced(rollout_id="solved", position=1, interest=2)


def test_tokens_that_the_student_read_are_never_named() -> None:
    read = np.array([False, False])
    own = np.array([True, False])

    assert choose_traced([attempt("a", "g", 1.0, owned=read)]) is None
    found = choose_traced([attempt("b", "g", None, owned=own), attempt("a", "g", 1.0, owned=read)])
    assert found == Traced(rollout_id="b", position=0, interest=0)


def test_a_later_step_is_named_only_where_it_says_more(tmp_path: Path) -> None:
    journal = Journal(NO_GATEWAY, NO_CONFIG, tmp_path, str)
    alike = [attempt("first", "g", 0.0), attempt("second", "g", 0.0)]
    mixed = [attempt("wrong", "g", 0.0), attempt("right", "g", 1.0)]
    other = [attempt("wrong too", "g", 0.0), attempt("right too", "g", 1.0)]

    kept = list[str]()
    for rows in (alike, mixed, other):
        journal.write_worked_rollout(rows, STEP)
        traced = read_traced(tmp_path)
        assert traced is not None
        kept.append(traced.rollout_id)

    assert kept == ["first", "right", "right"]
