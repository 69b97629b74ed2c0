"""Prepared statements give what SQLAlchemy gives, on both databases."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import bindparam, insert, select, update

from preceptor_services.store.database import Database
from preceptor_services.store.prepared import Prepared
from preceptor_services.store.tables.questions import Job

COLUMNS = (Job.id, Job.exclusive, Job.reason, Job.created_at, Job.state)
ADD = Prepared(insert(Job))
FIND = Prepared(
    select(*COLUMNS)
    .where(Job.id.in_(bindparam("ids")), Job.state.in_(("queued", "dead")))
    .order_by(Job.id)
)
END = Prepared(
    update(Job)
    .where(Job.id.in_(bindparam("ids")))
    .values(state="dead", reason=bindparam("b_reason"))
    .returning(Job.id, Job.exclusive, Job.reason)
)


def job(name: str, **fields: Any) -> dict[str, Any]:
    values: dict[str, Any] = {"kind": "logprobs", "state": "queued", "priority": 5}
    values |= {"num_tokens": 1, "exclusive": False, "fence": 0, "attempts": 0}
    return {"id": name, "service": "e", "created_at": 0.5, "reason": None, **values, **fields}


@pytest.mark.parametrize("num_ids", [0, 1, 3, 5])
async def test_lists_of_any_length_find_what_sqlalchemy_finds(
    database: Database, num_ids: int
) -> None:
    ids = [f"j{n}" for n in range(num_ids)]
    async with database.write() as conn:
        await ADD.many(conn, [job(f"j{n}", exclusive=n == 1) for n in range(4)])
        await ADD.many(conn, [job("done", state="done")])

        found = await FIND.rows(conn, {"ids": [*ids, "done"] if ids else []})
        usual = (await conn.execute(select(*COLUMNS).where(Job.id.in_(ids)))).all()

    assert sorted(map(tuple, found)) == sorted(map(tuple, usual))


async def test_values_of_every_type_come_back_as_they_were(database: Database) -> None:
    reason = {"detail": "ä\u2028", "errors": [1, None]}
    async with database.write() as conn:
        await ADD.many(conn, [job("a", exclusive=True)])

        ended = await END.rows(conn, {"ids": ["a"], "b_reason": reason})

    async with database.read() as conn:
        row = (await conn.execute(select(*COLUMNS))).one()
    assert [tuple(one) for one in ended] == [("a", True, reason)]
    assert tuple(row) == ("a", True, reason, 0.5, "dead")


async def test_a_missing_document_is_null_in_the_database(database: Database) -> None:
    async with database.write() as conn:
        await ADD.many(conn, [job("a"), job("b", reason={"x": 1})])

        missing = await conn.execute(select(Job.id).where(Job.reason.is_(None)))

        assert list(missing.scalars()) == ["a"]


async def test_both_kinds_of_statements_share_a_transaction(database: Database) -> None:
    async with database.write() as conn:
        await ADD.many(conn, [job("a")])
        await conn.execute(update(Job).values(state="dead"))
        [row] = await FIND.rows(conn, {"ids": ["a"]})
        assert row[-1] == "dead"

    with pytest.raises(RuntimeError):  # noqa: PT012  the block is what is tested
        async with database.write() as conn:
            await conn.execute(update(Job).values(state="queued"))
            await ADD.many(conn, [job("b")])
            raise RuntimeError("half way")

    async with database.read() as conn:
        assert [row[0] for row in await FIND.rows(conn, {"ids": ["a", "b"]})] == ["a"]
        assert (await conn.execute(select(Job.state))).scalar_one() == "dead"
