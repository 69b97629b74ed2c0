"""A request that waits at one gateway process is woken by what another one settles."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

from preceptor_services.jobs.streams import JobStreams
from preceptor_services.questions import neighbours
from preceptor_services.questions.neighbours import Neighbours
from preceptor_services.questions.notifier import Notifier
from preceptor_services.store.database import Database

from ..world import RecordingQueue


class SharedDatabase(Database):
    """A file that several processes use, as PostgreSQL would be."""

    @property
    def may_be_shared(self) -> bool:
        return True


class SilentQueue(RecordingQueue):
    """A broker that loses every announcement."""

    async def announce_settled(self, ticket_ids: Sequence[str]) -> None:
        pass

    async def settled(self) -> AsyncIterator[str]:
        await asyncio.Event().wait()
        yield "never"


@pytest.fixture
async def shared(sqlite_url: str) -> AsyncIterator[Database]:
    database = SharedDatabase.open(sqlite_url)
    yield database
    await database.aclose()


async def test_an_announcement_wakes_who_waits_elsewhere(
    queue: JobStreams, shared: Database, monkeypatch: Any
) -> None:
    monkeypatch.setattr(neighbours, "_LOOK_S", 3600.0)
    here, there = Notifier(), Notifier()
    both = [Neighbours(shared, queue, notifier) for notifier in (here, there)]
    for one in both:
        one.start()
    try:
        with there.watch(["t1"]) as watch:
            async with asyncio.timeout(30):
                while watch.pending:  # the first one may come before the other listens
                    here.notify(["t1"])
                    await asyncio.sleep(0.05)
    finally:
        for one in both:
            await one.stop()


async def test_a_lost_announcement_is_found_in_the_database(world: Any, shared: Database) -> None:
    there = Notifier()
    neighbour = Neighbours(shared, SilentQueue(), there)
    neighbour.start()
    try:
        [outcome] = await world.trainer.submit_logprobs("uniform", [world.submission("a")])
        with there.watch([outcome.ticket.id]) as watch:
            await asyncio.sleep(1.5 * neighbours._LOOK_S)
            assert watch.pending
            await world.work()
            await watch.wait(30.0)

            assert not watch.pending
    finally:
        await neighbour.stop()


async def test_a_gateway_with_a_file_of_its_own_tells_nobody(world: Any) -> None:
    await world.trainer.submit_logprobs("uniform", [world.submission("a")])
    await world.work()

    assert world.app.state.questions.notifier.on_settled is None
