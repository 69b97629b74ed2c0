"""Answers after the deadline: joined, weighted, dropped, asked again, and never used twice."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from preceptor_trainer.collect.group_state import group_of, group_state
from preceptor_trainer.collect.labelling import Labelled
from preceptor_trainer.collect.late_answers import Joined, LateAnswers

from .late import TASK, Experts, attempts, labeller


def late_answers(gateway: Experts, **fields: Any) -> LateAnswers:
    settings = {"deadline_s": 0.05, "join_within": 8, "refresh_s": 0.0, "lineage": "l0"} | fields
    weights = settings.pop("weights", {"fast": 1.0, "slow": 1.0})
    return LateAnswers(labeller=labeller(gateway, **weights), **settings)


async def join(late: LateAnswers, step: int, room: int = 100) -> Joined:
    # Questions that were just asked again, or let go, are answered in a few turns of the loop.
    for _ in range(5):
        await asyncio.sleep(0)
    return await late.join(step, prefix=f"run-l0-{step}", room=room)


def names(rows: list[Labelled] | None) -> list[str]:
    assert rows is not None
    return [row.attempt.rollout.rollout_id for row in rows]


def experts_of(row: Labelled) -> list[str]:
    return [] if row.target is None else [c.expert for c in row.target.components]


def weight_of(row: Labelled) -> float:
    assert row.target is not None
    return float(sum(c.weight_T for c in row.target.components)[0])


@pytest.fixture
def gateway() -> Experts:
    """Whose expert `slow` answers once it is let."""
    return Experts(waits={"slow": asyncio.Event()})


async def test_a_late_answer_makes_further_rows_with_the_weight_it_would_have_had(gateway: Experts):
    late = late_answers(gateway, weights={"fast": 2.0, "slow": 1.0})
    in_time = late.on_time(await late.ask(0, attempts(0)))
    assert in_time is not None
    before = await join(late, 1)
    gateway.waits["slow"].set()

    joined = await join(late, 2)

    assert [experts_of(row) for row in in_time] == [["fast"]] * 2
    assert before.rows == []
    assert names(joined.rows) == ["run-l0-2-late-0-0", "run-l0-2-late-0-1"]
    assert [row.attempt.rollout.weights for row in joined.rows] == ["run/l0/0"] * 2
    assert [experts_of(row) for row in joined.rows] == [["slow"]] * 2
    assert [weight_of(row) for row in joined.rows] == [0.5, 0.5]
    assert [row.attempt.score for row in joined.rows] == [None, None]
    assert joined.rollouts == [row.attempt.rollout for row in joined.rows]
    assert (await join(late, 3)).rows == []


async def test_a_group_takes_the_answers_to_questions_about_its_parts(gateway: Experts):
    late = late_answers(gateway)
    one, other = attempts(0)

    await late.ask_early([other])
    await late.ask_early([one])
    group = await late.ask(0, [one, other])
    rows = late.on_time(group)
    gateway.waits["slow"].set()
    joined = await join(late, 1)

    assert rows is not None
    assert [row.target.rollout_id for row in rows if row.target] == names(rows)
    assert [experts_of(row) for row in (*rows, *joined.rows)] == [["fast"]] * 2 + [["slow"]] * 2
    assert len(gateway.asked) == 4, "each was asked about each once"


async def test_a_group_one_of_whose_parts_was_not_asked_is_asked_as_a_whole():
    gateway = Experts(down={"slow"})
    late = late_answers(gateway)
    one, other = attempts(0)
    await late.ask_early([one])
    gateway.down.clear()
    await late.ask_early([other])

    group = await late.ask(0, [one, other])

    assert [experts_of(row) for row in late.on_time(group) or ()] == [["fast", "slow"]] * 2


async def test_a_group_without_any_answer_waits_and_joins_as_itself(gateway: Experts):
    late = late_answers(gateway, weights={"slow": 1.0})
    group = await late.ask(0, attempts(0))

    assert late.on_time(group) is None
    gateway.waits["slow"].set()
    joined = await join(late, 1)

    assert names(joined.rows) == ["run-l0-0-0-0", "run-l0-0-0-1"]
    assert [row.attempt.score for row in joined.rows] == [1.0, 0.0]
    assert joined.rollouts == [], "they are on record already"
    assert len({row.attempt.rollout.group for row in joined.rows}) == 1


async def test_an_answer_beyond_the_bound_of_staleness_is_dropped_and_counted(gateway: Experts):
    late = late_answers(gateway, join_within=2)
    late.on_time(await late.ask(0, attempts(0)))
    late.on_time(await late.ask(1, attempts(1)))
    await join(late, 2)
    gateway.waits["slow"].set()

    joined = await join(late, 3)

    assert {row.attempt.rollout.weights for row in joined.rows} == {"run/l0/1"}
    metrics = late.metrics()
    assert (metrics["late/joined"], metrics["late/dropped"], metrics["late/behind"]) == (2, 2, 2)
    assert late.labeller.dropped == {"stale": 2}


async def test_an_expert_that_is_down_is_skipped_and_asked_when_it_is_back():
    gateway = Experts(down={"slow"})
    late = late_answers(gateway)
    rows = late.on_time(await late.ask(0, attempts(0)))
    assert rows is not None
    assert [experts_of(row) for row in rows] == [["fast"]] * 2
    assert (await join(late, 1)).rows == []
    skipped = late.metrics()

    gateway.down.clear()
    await join(late, 2)
    joined = await join(late, 3)

    assert (skipped["late/skipped"], skipped["late/waiting"]) == (2, 2)
    assert [experts_of(row) for row in joined.rows] == [["slow"]] * 2
    assert late.metrics()["late/waiting"] == 0
    assert [key for name, key in gateway.asked if name == "slow"] == [
        "run/run-l0-0-0-0/slow/l0",
        "run/run-l0-0-0-1/slow/l0",
    ]


async def test_a_batch_takes_at_most_its_room_of_late_rows_oldest_first(gateway: Experts):
    late = late_answers(gateway)
    for step in range(3):
        late.on_time(await late.ask(step, attempts(step)))
    gateway.waits["slow"].set()

    counts = [len((await join(late, step, room=4)).rows) for step in (3, 4, 5)]

    assert counts == [4, 2, 0]


async def test_a_step_without_any_answer_waits_for_the_first(gateway: Experts):
    late = late_answers(gateway, weights={"slow": 1.0})
    group = await late.ask(0, attempts(0))
    asyncio.get_running_loop().call_later(0.02, gateway.waits["slow"].set)

    await late.wait_for_one([group])

    assert [experts_of(row) for row in late.on_time(group) or ()] == [["slow"]] * 2


async def test_a_step_whose_only_expert_stays_away_goes_on_without_targets():
    late = late_answers(Experts(down={"slow"}), weights={"slow": 1.0}, refresh_s=0.01)
    late.labeller.timeout_s = 0.05
    group = await late.ask(0, attempts(0))

    await late.wait_for_one([group])

    assert [experts_of(row) for row in late.on_time(group) or ()] == [[], []]
    assert late.labeller.dropped == {"unavailable": 2}


async def test_what_has_come_trains_where_another_expert_stays_away():
    late = late_answers(Experts(down={"slow"}), refresh_s=0.01)
    late.labeller.timeout_s = 0.05
    one, other = await late.ask(0, attempts(0)), await late.ask(1, attempts(1))
    # About the second attempt the expert that can be reached has no answer.
    answers = one.arrived()["fast"]
    answers[1] = None
    other.tasks.pop("fast")

    await late.wait_for_one([one, other])

    assert [experts_of(row) for row in late.on_time(one) or ()] == [["fast"], []]
    assert late.labeller.dropped == {"unavailable": 4}


async def test_what_waits_at_a_checkpoint_goes_on_and_nothing_is_used_twice(
    gateway: Experts, tmp_path: Path
):
    late = late_answers(gateway, weights={"fast": 2.0, "slow": 1.0})
    late.on_time(await late.ask(0, attempts(0)))
    torch.save([group_state(group) for group in late.unused(1)], tmp_path / "unused.pt")
    gateway.waits["slow"].set()
    await join(late, 1)
    after_it_joined = late.unused(2)

    resumed = late_answers(gateway, weights={"fast": 2.0, "slow": 1.0})
    saved = torch.load(tmp_path / "unused.pt", weights_only=True)
    resumed.groups = [group_of(state, TASK) for state in saved]
    await join(resumed, 1)
    joined = await join(resumed, 2)

    assert after_it_joined == []
    assert names(joined.rows) == ["run-l0-2-late-0-0", "run-l0-2-late-0-1"]
    assert [weight_of(row) for row in joined.rows] == [0.5, 0.5]
    rollout = joined.rows[0].attempt.rollout
    np.testing.assert_array_equal(rollout.behaviour_logprobs, np.full(3, -0.5, np.float32))


async def test_answers_of_a_batch_that_has_not_trained_belong_to_the_checkpoint(gateway: Experts):
    late = late_answers(gateway, weights={"slow": 1.0})
    late.on_time(await late.ask(0, attempts(0)))
    gateway.waits["slow"].set()
    await join(late, 2)  # collected ahead of the optimiser, which has taken step 0

    [group] = late.unused(1)
    late.trained(1)
    is_kept = bool(late.groups)
    late.trained(2)

    assert (group.used, group.tasks) == ([], {"slow": None})
    assert is_kept
    assert late.groups == []
