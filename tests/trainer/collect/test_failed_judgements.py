"""A judgement that failed is no score: not in a reward, not in a baseline, and never unnoticed."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from preceptor_clients.contract.errors import ServiceUnavailable
from preceptor_clients.contract.schemas import (
    FeedbackAnswer,
    FeedbackItem,
    FeedbackOutcome,
    FeedbackQuery,
    Ticket,
)
from preceptor_trainer.collect.context import PapersContext
from preceptor_trainer.collect.failed_judgements import (
    SourcesFail,
    check_judged,
    failures_by_source,
    unjudged,
)
from preceptor_trainer.collect.labelling import Labeller
from preceptor_trainer.collect.rollouts import Attempt, Rollout
from preceptor_trainer.objectives.group_rewards import group_advantages
from preceptor_trainer.tasks.combined import CombinedTask
from preceptor_trainer.tasks.task import NOT_JUDGED, ScoredTask, Task

BOTH = ScoredTask(sources=("tests", "judge"))
GONE = ServiceUnavailable("no reply from http://judge")
QUERY = FeedbackQuery.model_validate(
    {
        "rollout_id": "r",
        "prompt": {"messages": [{"role": "user", "content": "?"}]},
        "response_ids": [1],
        "response_text": "a",
        "finish_reason": "stop",
        "payload_sha256": "0" * 64,
    }
)


def item(source: str, score: float | None = None, **fields: Any) -> FeedbackItem:
    made: dict[str, Any] = {"id": source, "kind": "verdict", "source": source, "version": "1"}
    return FeedbackItem(**made | {"score": score} | fields)


def attempt(*items: FeedbackItem, task: Task = BOTH, **fields: Any) -> Attempt:
    rollout = cast(Rollout, SimpleNamespace(rollout_id="r", group=0, failure=None))
    return Attempt(rollout=rollout, items=items, task=task, **fields)


def rule(name: Any) -> CombinedTask:
    return CombinedTask(sources=("tests", "judge"), weights=(1.0, 0.5), rule=name)


@pytest.mark.parametrize(
    ("task", "score"),
    [(BOTH, None), *((rule(name), None) for name in ("sum", "mean", "min")), (rule("first"), 1.0)],
)
@pytest.mark.parametrize("how", ["an item with an error", "no answer"])
def test_a_source_that_counts_and_failed_leaves_no_reward(
    task: Task, score: float | None, how: str
) -> None:
    if how == "no answer":
        failed = attempt(item("tests", 1.0), task=task, unanswered={"judge": "unavailable"})
    else:
        failed = attempt(item("tests", 1.0), item("judge", error="gone"), task=task)

    assert (failed.score, failed.solved) == (score, score is not None)
    assert failed.failures.keys() == {"judge"}


def test_a_text_without_a_score_is_no_failure() -> None:
    said = attempt(item("tests", text="look again"), task=ScoredTask(sources=("tests",)))

    assert (said.score, said.failures, unjudged([said])) == (None, {}, [])


def test_the_baseline_of_a_group_is_that_of_the_judged_ones() -> None:
    rewards = torch.tensor([1.0, 0.0, 0.0])
    known = torch.tensor([True, True, False])

    advantages = group_advantages(rewards, known, torch.zeros(3), std=False)

    assert advantages.tolist() == [0.5, -0.5, 0.0]


def test_a_share_of_failures_beyond_the_limit_stops_the_run_with_the_reasons() -> None:
    judged = [attempt(item("tests", 1.0), item("judge", 1.0)) for _ in range(6)]
    failed = [attempt(item("tests", 1.0), item("judge", error="the box is gone"))] * 2
    failed += [attempt(item("tests", 1.0), unanswered={"judge": "unavailable: no reply"})]

    check_judged([*judged, *failed[:2]], 0.25, step=4)
    with pytest.raises(SourcesFail) as stopped:
        check_judged([*judged, *failed], 0.25, step=4)

    said = str(stopped.value)
    assert "step 5: 3 of 9 attempts were not judged, more than max_failed = 0.25" in said
    assert "2 times judge: the box is gone; 1 times judge: unavailable: no reply" in said


def test_a_source_that_does_not_count_is_counted_among_the_failures_and_stops_nothing() -> None:
    attempts = [attempt(item("tests", 1.0), item("judge", error="gone"), task=rule("first"))]

    check_judged(attempts, 0.0, step=0)

    assert failures_by_source(attempts) == {"judge": 1}


def test_attempts_that_nobody_judges_stop_nothing() -> None:
    check_judged([attempt(task=NOT_JUDGED)], 0.0, step=0)


class Gateway:
    """Answers each source's questions with one outcome."""

    def __init__(self, **outcomes: FeedbackOutcome) -> None:
        self.outcomes = outcomes

    async def feedback(self, source: str, submissions: Any, **_: Any) -> list[FeedbackOutcome]:
        return [self.outcomes[source]] * len(submissions)


def answered(source: str, score: float, *, cached: bool) -> FeedbackOutcome:
    answer = FeedbackAnswer(
        items=(item(source, score),), source=source, source_version="1", cost=2.0
    )
    ticket = Ticket(id="t", state="done", answer_key="0" * 64, cached=cached)
    return FeedbackOutcome(ticket=ticket, answer=answer)


async def asked(**outcomes: FeedbackOutcome) -> Attempt:
    labeller = Labeller(
        gateway=cast(Any, Gateway(**outcomes)),
        run="r",
        task=BOTH,
        experts=(),
        context=PapersContext(),
        vocab_fingerprint="v",
        batching="merge",
    )
    rollout = SimpleNamespace(rollout_id="r", failure=None, feedback_query=lambda _: QUERY)
    [found] = await labeller.feedback([cast(Rollout, rollout)])
    return found


async def test_a_source_that_gives_no_answer_is_named_with_its_reason() -> None:
    found = await asked(
        tests=answered("tests", 1.0, cached=False), judge=FeedbackOutcome(problem=GONE.problem())
    )

    assert found.score is None
    assert found.failures == {"judge": "unavailable: no reply from http://judge"}


async def test_an_answer_that_was_on_record_costs_nothing_again() -> None:
    found = await asked(
        tests=answered("tests", 1.0, cached=False), judge=answered("judge", 1.0, cached=True)
    )

    assert (found.score, found.cost) == (2.0, 2.0)


def test_texts_of_a_hidden_source_are_shown_to_no_expert_and_its_score_counts() -> None:
    judged = attempt(item("tests", 0.0, text="case 3"), item("judge", 0.0, text="the answer is 4"))

    [view] = PapersContext(hidden_sources=("judge",))([judged])

    assert [shown.text for shown in view.items] == ["case 3"]
    assert judged.score == 0.0
