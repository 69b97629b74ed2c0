"""Stages that overlap, in simulated time: how long steps take, what joins late, what streams."""

from __future__ import annotations

import asyncio
import importlib.util
import selectors
import sys
from collections import Counter
from collections.abc import Coroutine
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, TypeVar

import numpy as np
import pytest

from preceptor_trainer.collect.context import InView
from preceptor_trainer.collect.late_answers import Group
from preceptor_trainer.run.schedules import Deterministic, Overlapped
from preceptor_trainer.run.streaming import Turns

from ..collect.late import attempts

pytestmark = pytest.mark.usefixtures("one_thread")

WORLD = Path(__file__).parents[3] / "benchmarks" / "overlap_world.py"
T = TypeVar("T")


class _Skipping(selectors.SelectSelector):
    """Does not wait: the loop's clock goes on instead."""

    now = 0.0

    def select(self, timeout: float | None = None) -> list[Any]:
        self.now += max(0.0, timeout or 0.0)
        return super().select(0)


class SimulatedTime(asyncio.SelectorEventLoop):
    """An event loop in which nothing takes time but sleeping."""

    def __init__(self) -> None:
        self._skipping = _Skipping()
        super().__init__(self._skipping)

    def time(self) -> float:
        return self._skipping.now


def run(work: Coroutine[Any, Any, T]) -> T:
    with asyncio.Runner(loop_factory=SimulatedTime) as runner:
        return runner.run(work)


@pytest.fixture(scope="module")
def world() -> ModuleType:
    spec = importlib.util.spec_from_file_location("overlap_world", WORLD)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["overlap_world"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def late(world: ModuleType) -> Any:
    """A run with an expert ten times slower than the others, and one that is down at first."""
    delays = world.Delays()
    experts = {
        **delays.experts,
        "slow": world.Expert(group_s=10.0, at_a_time=64, deadline_s=0.0),
        "away": world.Expert(group_s=0.2, down_until_s=4.0),
    }
    schedule = Overlapped(staleness=2, deadline_s=4.0, join_within=12)
    return run(world.simulate(schedule, replace(delays, experts=experts), 16))


@pytest.mark.parametrize("staleness", [1, 2])
def test_a_step_takes_as_long_as_its_slowest_stage_and_not_the_sum(world, staleness):
    delays = world.Delays()
    schedule = Overlapped(staleness=staleness, deadline_s=4.0)

    plain = run(world.simulate(Deterministic(), delays, 2))
    overlapped = run(world.simulate(schedule, delays, 8))

    assert overlapped.seconds / 8 <= 1.1 * max(delays.stages.values())
    assert plain.seconds / 2 >= 2.5 * max(delays.stages.values())
    assert max(max(step) for step in overlapped.behind) == staleness


def test_an_expert_ten_times_slower_and_one_that_is_down_do_not_hold_a_step_up(world, late):
    assert late.seconds / 16 <= 1.1 * max(world.Delays().stages.values())


def test_their_answers_join_later_within_the_bound(late):
    used = Counter(name for name, _ in late.answers)
    at_most = 16 * 4 * 4

    assert used["first"] == used["second"] == at_most
    assert 0 < used["slow"] < at_most
    assert 12 * 16 < used["away"] < at_most, "in time once it was back, and some of what it missed"
    assert late.late["skipped"] > late.late["dropped"] > 0
    assert max(max(step) for step in late.behind) <= 12


def test_every_answer_and_every_rollout_is_used_at_most_once(late):
    assert set(late.used.values()) == {1}
    assert set(late.answers.values()) == {1}
    sampled_in_time = [name for name in late.used if "-late-" not in name]
    assert len(sampled_in_time) == 16 * 4 * 4
    assert late.used.total() - len(sampled_in_time) == late.late["joined"]


def test_stale_rollouts_keep_their_future_term(late):
    assert np.isnan(late.future[0]), "the first step's are of the policy that trains on them"
    assert all(size > 0.01 for size in late.future[1:])


async def keys_of_a_resumed_step(world: Any) -> list[str]:
    """Keys of the questions about a group that a checkpoint had, of a step on lineage l1."""
    published = SimpleNamespace(version="run/l0/1", logits=world.WORLD.random_logits(0))
    run = world._Run(delays=world.Delays(), published=published, result=None, lineage="l1")
    collector = world._collector(Overlapped(), world.Delays(), run)
    waited = Group(step=0, attempts=attempts(0), in_view=[InView((), frozenset())] * 2)
    waited.tasks["first"] = None
    gateway, keys = collector.labeller.gateway, list[str]()
    answer = gateway.logprobs

    async def logprobs(name: str, submissions: Any, **options: Any) -> Any:
        keys.extend(submission.idempotency_key for submission in submissions)
        return await answer(name, submissions, **options)

    gateway.logprobs = logprobs
    collector.restore([waited])
    await collector.collect(1)
    await collector.close()
    return [key for key in keys if "/run-l0-0-" in key]


def test_what_a_checkpoint_had_is_asked_again_under_keys_of_its_own_lineage(world):
    keys = run(keys_of_a_resumed_step(world))

    assert keys == ["run/run-l0-0-0-0/first/l1", "run/run-l0-0-0-1/first/l1"]


async def test_steps_end_in_the_order_in_which_they_began():
    turns, ended = Turns(), list[int]()

    async def step(number: int) -> None:
        turn = turns.take()
        await asyncio.sleep(0.003 * (3 - number))
        async with turn():
            await asyncio.sleep(0)
            ended.append(number)

    await asyncio.gather(*(step(number) for number in range(3)))

    assert ended == [0, 1, 2]
