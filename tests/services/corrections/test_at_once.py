"""What comes at the same moment shares a transaction, and each is judged as if it came alone."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from preceptor_clients.contract.corrections import RoundSettings, Submission
from preceptor_clients.contract.errors import Conflict, NotFound
from preceptor_services.corrections.claims import MAX_HELD
from preceptor_services.corrections.intake import Intake
from preceptor_services.corrections.work import Work
from preceptor_services.kit.array_blobs import ArrayBlobs
from preceptor_services.kit.blobs import LocalBlobs
from preceptor_services.kit.clock import ServerClock
from preceptor_services.store.corrections import claims as claims
from preceptor_services.store.corrections import items as items
from preceptor_services.store.corrections import people as people
from preceptor_services.store.corrections import results as results
from preceptor_services.store.database import Database

EVERYBODY = ("ann", "bob", "cyd")


class CountedDatabase:
    """Passes transactions on, and counts them."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.count = 0

    def write_locked(self) -> Any:
        self.count += 1
        return self._database.write_locked()


@pytest.fixture
def counted(database: Database) -> CountedDatabase:
    return CountedDatabase(database)


@pytest.fixture
def queue(counted: Any) -> Work:
    return Work(database=counted, clock=ServerClock())


@pytest.fixture
def fill(database: Database, queue: Work, tmp_path: Any, new_items: Any) -> Any:
    """Makes a round of so many items, with three people."""

    async def filled(count: int, **rules: Any) -> Sequence[str]:
        array_blobs = ArrayBlobs(LocalBlobs(tmp_path / "blobs"))
        intake = Intake(database=database, clock=queue.clock, array_blobs=array_blobs)
        await intake.put_round("r", RoundSettings(**({"double_share": 0.0} | rules)))
        taken = await intake.add("r", [new_items(i) for i in range(count)])
        async with database.write() as conn:
            for name in EVERYBODY:
                await people.add(conn, people.new_row(name, "annotator", name, 0.0))
        return [item.id for item in taken if item.id is not None]

    return filled


def edit(text: str) -> Submission:
    return Submission(decision="edit", text=text)


async def test_who_asks_at_once_gets_different_items_in_few_transactions(
    queue: Work, counted: CountedDatabase, fill: Any
) -> None:
    await fill(12)

    given = await asyncio.gather(*(queue.claim(name) for name in EVERYBODY * 4))

    assert len({claim.item_id for claim in given if claim is not None}) == 12
    assert counted.count <= 2


async def test_one_person_who_asks_twice_at_once_gets_one_place_of_a_double(
    queue: Work, database: Database, fill: Any
) -> None:
    [item_id] = await fill(1, double_share=1.0)

    given = await asyncio.gather(*(queue.claim(name) for name in ("ann", "ann", "ann", "bob")))

    async with database.read() as conn:
        item = await items.find(conn, item_id)
        history = await claims.of_item(conn, item_id)
    assert [claim is not None for claim in given] == [True, False, False, True]
    assert item is not None
    assert (item.num_live, sorted(c.person for c in history)) == (2, ["ann", "bob"])


async def test_a_refused_wish_takes_nothing_from_the_others(queue: Work, fill: Any) -> None:
    ids = await fill(MAX_HELD + 2)
    for _ in range(MAX_HELD - 1):
        await queue.claim("ann")

    last, over, missing, other = await asyncio.gather(
        queue.claim("ann"),
        queue.claim("ann"),
        queue.claim("bob", item_id=ids[0]),
        queue.claim("bob"),
        return_exceptions=True,
    )

    assert isinstance(over, Conflict)
    assert isinstance(missing, Conflict)
    assert {last.item_id, other.item_id} == set(ids[MAX_HELD - 1 : MAX_HELD + 1])  # type: ignore[union-attr]


async def test_versions_of_one_item_that_come_at_once_settle_it_once(
    queue: Work, database: Database, fill: Any
) -> None:
    await fill(3, double_share=1.0)
    held = [(name, await queue.claim(name)) for name in ("ann", "bob") for _ in range(3)]

    taken = await asyncio.gather(*(queue.submit(n, c.id, edit("same")) for n, c in held if c))

    async with database.read() as conn:
        told = await results.after(conn, cursor=0, limit=100, run=None, round_name=None)
    assert sorted(state for _, state in taken) == ["done"] * 3 + ["open"] * 3
    assert [row.kind for row in told] == ["settled"] * 3


async def test_handing_the_same_in_twice_at_once_is_one_version(queue: Work, fill: Any) -> None:
    await fill(1)
    claim = await queue.claim("ann")
    assert claim is not None

    twice = await asyncio.gather(*(queue.submit("ann", claim.id, edit("x")) for _ in range(2)))

    assert twice[0] == twice[1]


async def test_a_refused_version_takes_nothing_from_the_others(queue: Work, fill: Any) -> None:
    await fill(2)
    first, second = await queue.claim("ann"), await queue.claim("bob")
    assert first is not None
    assert second is not None
    await queue.submit("ann", first.id, edit("done"))

    settled, stolen, good = await asyncio.gather(
        queue.submit("ann", first.id, edit("another")),
        queue.submit("cyd", second.id, edit("not mine")),
        queue.submit("bob", second.id, edit("good")),
        return_exceptions=True,
    )

    assert isinstance(settled, Conflict)
    assert isinstance(stolen, NotFound)
    assert good[1] == "done"  # type: ignore[index]
