"""One version of the weights at a time, and nobody's is changed under their hands."""

from __future__ import annotations

import asyncio

import pytest

from preceptor_clients.vllm_expert.version_gate import VersionGate

FIRST, SECOND = "p/l/1", "p/l/2"


class Engine:
    """Notes what happens to it, in order."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.gate = VersionGate(self.load)
        self.fails = False

    async def load(self, version: str | None) -> None:
        self.events.append(f"load {version}")
        await asyncio.sleep(0)
        if self.fails:
            raise RuntimeError("cut off")

    async def use(self, version: str | None, steps: int = 3) -> None:
        async with self.gate.holding(version):
            self.events.append(f"begin {version}")
            for _ in range(steps):
                await asyncio.sleep(0)
            self.events.append(f"end {version}")


async def test_users_of_one_version_work_side_by_side() -> None:
    engine = Engine()

    await asyncio.gather(engine.use(FIRST), engine.use(FIRST))

    assert engine.events == [f"load {FIRST}", *[f"begin {FIRST}"] * 2, *[f"end {FIRST}"] * 2]


async def test_a_change_waits_for_those_who_work_and_is_not_overtaken() -> None:
    engine = Engine()

    await asyncio.gather(*(engine.use(v) for v in (None, SECOND, None)))

    assert engine.events == [
        *("begin None", "end None"),
        *(f"load {SECOND}", f"begin {SECOND}", f"end {SECOND}"),
        *("load None", "begin None", "end None"),
    ]


async def test_after_a_change_that_failed_the_weights_are_loaded_again() -> None:
    engine = Engine()
    engine.fails = True
    with pytest.raises(RuntimeError):
        await engine.use(FIRST)
    engine.fails = False

    await engine.use(None)

    assert engine.events == [f"load {FIRST}", "load None", "begin None", "end None"]


async def test_whoever_gives_up_waiting_leaves_no_trace() -> None:
    engine = Engine()
    first = asyncio.create_task(engine.use(None, steps=20))
    await asyncio.sleep(0)
    waiting = asyncio.create_task(engine.use(SECOND))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.gather(first, engine.use(None), waiting, return_exceptions=True)

    assert f"begin {SECOND}" not in engine.events
    assert engine.events.count("end None") == 2


async def test_who_wants_the_engine_alone_waits_for_its_users_and_is_not_overtaken() -> None:
    engine = Engine()

    async def alone() -> None:
        async with engine.gate.alone():
            engine.events.append("alone")
            await asyncio.sleep(0)
            engine.events.append("no longer")

    await asyncio.gather(engine.use(None), alone(), engine.use(None))

    used = ["begin None", "end None"]
    assert engine.events == [*used, "alone", "no longer", *used]
