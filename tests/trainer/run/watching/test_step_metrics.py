"""What a step says about itself, with groups that dynamic sampling discarded."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace
from typing import Any, cast

import numpy as np

from preceptor_clients.contract.schemas import FeedbackItem
from preceptor_trainer.collect.context import InView
from preceptor_trainer.collect.dynamic_sampling import Judged
from preceptor_trainer.collect.labelling import Labelled, Labeller
from preceptor_trainer.collect.rollouts import Attempt, Rollout
from preceptor_trainer.learner.learner import StepResult
from preceptor_trainer.run.journal import corrections_of, judgements_of, late_of
from preceptor_trainer.run.watching.step_metrics import collect_metrics
from preceptor_trainer.tasks.task import NOT_JUDGED


def attempt(group: int, score: float | None, length: int = 2, **fields: Any) -> Attempt:
    rollout = SimpleNamespace(
        group=group, response_ids=np.zeros(length, np.int32), finish_reason="stop", given=False
    )
    item = FeedbackItem(id="i", kind="verdict", score=score, source="tests", version="1", **fields)
    return Attempt(rollout=cast(Rollout, rollout), items=(item,), task=NOT_JUDGED)


def metrics_of(trained: list[Attempt], discarded: list[Attempt], missing: int) -> dict[str, float]:
    labeller = SimpleNamespace(dropped=Counter[str]())
    view = InView((), frozenset())
    return collect_metrics(
        [Labelled(attempt=row, in_view=view, target=None) for row in trained],
        Judged(attempts=trained, discarded=discarded, missing_groups=missing),
        StepResult(loss=0.0, metrics={}, grad_norm=0.0, lr=1e-4, skipped=False),
        cast(Labeller, labeller),
        {},
    )


def test_reward_and_solved_groups_count_groups_that_were_discarded():
    trained = [attempt(0, 1.0), attempt(0, 0.0)]
    failed = [attempt(group, 0.0) for group in (1, 1, 2, 2, 3, 3)]

    metrics = metrics_of(trained, failed, missing=0)

    assert (metrics["reward"], metrics["solved_groups"]) == (1 / 8, 1 / 4)


def test_what_was_discarded_and_not_found_is_told_apart_from_what_trains():
    metrics = metrics_of(
        [attempt(0, 1.0, length=4), attempt(0, 0.0, length=6)],
        [attempt(1, 0.0, length=9), attempt(1, 0.0, length=9)],
        missing=1,
    )

    assert (metrics["rollouts"], metrics["response_length"]) == (2, 5)
    assert (metrics["discarded_rollouts"], metrics["discarded_tokens"]) == (2, 18)
    assert metrics["missing_groups"] == 1


def test_a_failed_judgement_is_in_no_mean_and_is_counted_by_source():
    metrics = metrics_of(
        [attempt(0, 1.0), attempt(0, None, error="gone"), attempt(1, None, error="gone")], [], 0
    )

    assert (metrics["reward"], metrics["solved_groups"]) == (1.0, 1.0)
    assert (metrics["unjudged"], metrics["failed_judgements/tests"]) == (2.0, 2.0)


def test_where_nothing_was_judged_there_is_no_reward_and_not_a_reward_of_zero():
    metrics = metrics_of([attempt(0, None, error="gone")], [], missing=0)

    assert not {"reward", "solved_groups"} & metrics.keys()


def test_a_step_without_failures_has_no_word_of_them():
    assert not [name for name in metrics_of([attempt(0, 1.0)], [], 0) if "judge" in name]


def test_the_summary_adds_up_failed_judgements_and_their_price() -> None:
    lines = [
        {"failed_judgements/judge": 2.0, "unjudged": 2.0, "feedback_cost": 0.5},
        {"failed_judgements/judge": 1.0, "failed_judgements/tests": 1.0, "feedback_cost": 0.25},
    ]

    assert judgements_of(lines) == {
        "failed_judgements": {"judge": 3, "tests": 1},
        "unjudged": 2,
        "feedback_cost": 0.75,
    }


def test_the_summary_adds_up_late_answers_and_is_silent_where_steps_take_turns() -> None:
    first = {"joined": 2.0, "dropped": 0.0, "skipped": 4.0, "waiting": 6.0}
    second = {"joined": 3.0, "dropped": 1.0, "skipped": 0.0, "waiting": 2.0}
    lines = [{f"late/{name}": n for name, n in one.items()} for one in (first, second)]

    assert late_of(lines) == {"joined": 5, "dropped": 1, "skipped": 4, "waiting": 2}
    assert late_of([{"loss": 1.0}]) is None


def test_the_summary_adds_up_what_people_did_and_is_silent_without_them() -> None:
    lines = [
        {"corrections/sent": 3.0, "corrections/standing": 0.0, "corrections/trained": 0.0},
        {"corrections/sent": 1.0, "corrections/standing": 2.0, "corrections/trained": 4.0},
    ]

    assert corrections_of(lines) == {"sent": 4, "standing": 2, "trained": 4}
    assert corrections_of([{"loss": 1.0}]) is None
