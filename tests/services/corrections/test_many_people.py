"""H1: many people at once, some of whom crash, over two processes' worth of connections.

Nobody is given what is taken, nothing waits for a lock in vain, and every item ends. The full size,
16 people and 400 items, is the gauntlet's.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import pytest

from preceptor_clients.contract.corrections import RoundSettings, Submission
from preceptor_services.corrections.intake import Intake
from preceptor_services.corrections.work import Work
from preceptor_services.kit.array_blobs import ArrayBlobs
from preceptor_services.kit.blobs import LocalBlobs
from preceptor_services.store.corrections import claims as claims
from preceptor_services.store.corrections import items as items
from preceptor_services.store.corrections import people as people
from preceptor_services.store.database import Database

LEASE_S = 60.0


class StillClock:
    """Server time that moves only when somebody lets a lease run out."""

    def __init__(self) -> None:
        self.at = 1000.0

    def now(self) -> float:
        return self.at


@pytest.fixture
async def offices(
    database: Database, database_url: str, tmp_path: Any
) -> AsyncIterator[list[Work]]:
    """The queue of two gateways over one database."""
    clock, other = StillClock(), Database.open(database_url)
    yield [Work(database=each, clock=clock) for each in (database, other)]
    await other.aclose()


async def fill(queue: Work, folder: Any, new_item: Any, count: int, names: list[str]) -> None:
    array_blobs = ArrayBlobs(LocalBlobs(folder / "blobs"))
    intake = Intake(database=queue.database, clock=queue.clock, array_blobs=array_blobs)
    rules = RoundSettings(double_share=0.25, lease_s=LEASE_S, review="never")
    await intake.put_round("r", rules)
    await intake.add("r", [new_item(i) for i in range(count)])
    async with queue.database.write() as conn:
        for name in names:
            await people.add(conn, people.new_row(name, "annotator", name, 0.0))


async def work(queue: Work, name: str, draw: random.Random, held: Counter[str]) -> None:
    """Claims and hands in until nothing is left; now and then crashes with a claim in hand."""
    while (claim := await queue.claim(name)) is not None:
        held[claim.item_id] += 1
        item = await _item(queue, claim.item_id)
        assert held[claim.item_id] <= item.wanted, "given to more people than were wanted"
        await asyncio.sleep(0)
        held[claim.item_id] -= 1
        if draw.random() < 0.15:
            continue  # Crashed: the lease must run out by itself.
        if draw.random() < 0.1:
            await queue.release(name, claim.id)
            return  # Gone home; somebody else, or the next round, takes it.
        await queue.submit(name, claim.id, Submission(decision="edit", text=f"by {name}"))


async def _item(queue: Work, item_id: str) -> Any:
    async with queue.database.read() as conn:
        return await items.find(conn, item_id)


async def all_end(queues: list[Work], num_people: int, seed: int) -> None:
    """Lets everybody work until every item is done, leases of the crashed running out between."""
    clock: Any = queues[0].clock
    names = [f"p{n}" for n in range(num_people)]
    for attempt in range(60):
        held: Counter[str] = Counter()
        draw = random.Random(f"{seed}-{attempt}")
        await asyncio.gather(
            *(work(queues[n % len(queues)], name, draw, held) for n, name in enumerate(names))
        )
        async with queues[0].database.read() as conn:
            states = await items.count_by_state(conn)
        if set(states) == {("r", "done")}:
            return
        clock.at += LEASE_S + 1
    raise AssertionError(f"items are left: {states}")


async def check_rows(queue: Work, count: int) -> None:
    """Every item has exactly the versions that were wanted, each by somebody else."""
    async with queue.database.read() as conn:
        rows = await items.page(
            conn,
            round_name="r",
            state=None,
            run=None,
            worked_on_by=None,
            after=0,
            limit=count + 1,
        )
        histories = {row.id: await claims.of_item(conn, row.id) for row in rows}
    assert len(rows) == count
    for row in rows:
        submitted = [c.person for c in histories[row.id] if c.state == "submitted"]
        assert len(submitted) == len(set(submitted)) == row.wanted == row.num_live
        assert all(c.state in ("submitted", "expired", "released") for c in histories[row.id])


async def test_no_item_is_given_twice_and_every_item_ends(
    offices: list[Work], tmp_path: Any, new_items: Any
) -> None:
    await fill(offices[0], tmp_path, new_items, 24, [f"p{n}" for n in range(8)])

    await all_end(offices, num_people=8, seed=1)

    await check_rows(offices[0], 24)


@pytest.mark.gauntlet
async def test_sixteen_people_end_four_hundred_items(
    offices: list[Work], tmp_path: Any, new_items: Any
) -> None:
    await fill(offices[0], tmp_path, new_items, 400, [f"p{n}" for n in range(16)])

    await all_end(offices, num_people=16, seed=2)

    await check_rows(offices[0], 400)
