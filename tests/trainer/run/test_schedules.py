"""Schedules: order and bounds of collecting and training."""

import asyncio
import contextlib

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

    # By itself: a command says what it is, and a group of errors would be a traceback.
    with pytest.raises(RuntimeError, match="the expert is gone"):
        await Overlapped().drive(range(3), collect, train)


async def test_a_step_is_collected_while_the_one_before_it_still_is():
    under_way, most = 0, 0

    async def collect(step: int) -> int:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0.01 * (4 - step))
        under_way -= 1
        return step

    trained: list[int] = []

    async def train(step: int) -> bool:
        trained.append(step)
        return True

    await Overlapped(staleness=2).drive(range(4), collect, train)

    assert most == 3
    assert trained == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"staleness": 0}, "staleness must be at least 1"),
        ({"deadline_s": 0.0}, "deadline_s must be above 0"),
        ({"staleness": 3, "join_within": 2}, "join_within must be at least staleness = 3"),
    ],
)
def test_senseless_settings_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        Overlapped(**fields)


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


@pytest.mark.parametrize("loses", ["collect", "train"])
@pytest.mark.parametrize("schedule", [Deterministic(), Overlapped()], ids=["in turn", "overlapped"])
async def test_a_cancellation_that_a_step_loses_ends_the_run_all_the_same(
    schedule: Schedule, loses: str
):
    waits = asyncio.Event()

    async def loses_it(what: str) -> None:
        await asyncio.sleep(0)
        if what == loses and not waits.is_set():
            waits.set()
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.Event().wait()

    async def collect(step: int) -> int:
        await loses_it("collect")
        return step

    async def train(step: int) -> bool:
        await loses_it("train")
        return True

    run = asyncio.create_task(schedule.drive(range(1000), collect, train))
    await waits.wait()
    run.cancel()

    with pytest.raises(asyncio.CancelledError):
        await run
