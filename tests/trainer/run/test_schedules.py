"""Schedules: order and bounds of collecting and training."""

import asyncio

import pytest

from preceptor_trainer.run.schedules import Deterministic, Overlapped, Schedule


async def drive(schedule, steps: int = 5) -> tuple[list[str], list[int]]:
    events, staleness, trained = [], [], 0

    async def collect(step: int) -> tuple[int, int]:
        events.append(f"collect {step}")
        version = trained
        await asyncio.sleep(0)
        return step, version

    async def train(batch: tuple[int, int]) -> bool:
        nonlocal trained
        step, version = batch
        await asyncio.sleep(0.001)
        events.append(f"train {step}")
        staleness.append(trained - version)
        trained += 1
        return True

    await schedule.drive(range(steps), collect, train)
    return events, staleness


async def test_deterministic_takes_one_step_after_the_other():
    events, staleness = await drive(Deterministic(), steps=2)

    assert events == ["collect 0", "train 0", "collect 1", "train 1"]
    assert staleness == [0, 0]


@pytest.mark.parametrize("bound", [1, 2])
async def test_overlapped_reaches_its_staleness_bound_and_never_passes_it(bound: int):
    events, staleness = await drive(Overlapped(staleness=bound), steps=8)

    assert [e for e in events if e.startswith("train")] == [f"train {i}" for i in range(8)]
    assert max(staleness) == bound


async def test_a_failure_while_collecting_ends_the_run():
    async def collect(step: int) -> int:
        if step == 1:
            raise RuntimeError("the expert is gone")
        return step

    async def train(batch: int) -> bool:
        await asyncio.sleep(0)
        return True

    with pytest.raises(ExceptionGroup) as caught:
        await Overlapped().drive(range(3), collect, train)

    assert caught.group_contains(RuntimeError, match="the expert is gone")


def test_overlapping_without_staleness_is_refused():
    with pytest.raises(ValueError, match="staleness must be at least 1"):
        Overlapped(staleness=0)


@pytest.mark.parametrize("schedule", [Deterministic(), Overlapped(), Overlapped(staleness=3)])
async def test_nothing_is_trained_after_the_step_that_ends_the_run(schedule: Schedule) -> None:
    trained: list[int] = []

    async def collect(step: int) -> int:
        await asyncio.sleep(0)
        return step

    async def train(batch: int) -> bool:
        if batch == 2:
            return False
        trained.append(batch)
        return True

    await schedule.drive(range(10), collect, train)

    assert trained == [0, 1]
