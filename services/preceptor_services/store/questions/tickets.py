"""Queries about tickets and arrivals.

Frequent statements are built once, because building one takes longer than SQLite takes to execute
it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from sqlalchemy import bindparam, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from preceptor_services.store.prepared import Prepared
from preceptor_services.store.questions.answers import STORED_COLUMNS, StoredAnswer
from preceptor_services.store.questions.states import ASKED, LIVE
from preceptor_services.store.tables.questions import AnswerRow, Arrival, Question, Ticket


class TicketRow(NamedTuple):
    """One ticket."""

    id: str
    caller: str
    payload_hash: str
    answer_key: str
    kind: str
    state: str
    cached: bool
    problem: dict[str, Any] | None


class Settled(NamedTuple):
    """A ticket that has just reached a final state."""

    id: str
    answer_key: str
    run: str | None


class ArrivalRow(NamedTuple):
    """One entry of the arrivals of a run."""

    cursor: int
    ticket_id: str
    answer_key: str
    idempotency_key: str
    answer_id: str | None
    rollout_id: str | None


_COLUMNS: Final = (
    Ticket.id,
    Ticket.caller,
    Ticket.payload_hash,
    Ticket.answer_key,
    Ticket.kind,
    Ticket.state,
    Ticket.cached,
    Ticket.problem,
)


_FIND: Final = Prepared(select(*_COLUMNS).where(Ticket.id.in_(bindparam("ids"))))
_OUTCOMES: Final = Prepared(
    select(*_COLUMNS, *STORED_COLUMNS, AnswerRow.state.label("answer_state"))
    .join(AnswerRow, AnswerRow.answer_key == Ticket.answer_key)
    .where(Ticket.id.in_(bindparam("ids")))
)
_MARK_RUNNING: Final = Prepared(
    update(Ticket)
    .where(Ticket.answer_key.in_(bindparam("keys")), Ticket.state == "queued")
    .values(state="running")
)
_SETTLE: Final = Prepared(
    update(Ticket)
    .where(Ticket.answer_key.in_(bindparam("keys")), Ticket.state.in_(LIVE))
    .values(state=bindparam("b_state"), problem=bindparam("b_problem"))
    .returning(Ticket.id, Ticket.answer_key, Ticket.run)
)
_ADD: Final = Prepared(insert(Ticket))


async def find(conn: AsyncConnection, ids: Iterable[str]) -> dict[str, TicketRow]:
    """Those of `ids` that exist."""
    rows = await _FIND.for_each_key(conn, "ids", list(ids))
    return {row[0]: TicketRow(*row) for row in rows}


async def outcomes(
    conn: AsyncConnection, ids: Iterable[str]
) -> dict[str, tuple[TicketRow, StoredAnswer | None]]:
    """Those of `ids` that exist, each with its answer if it is done."""
    width = len(_COLUMNS)
    found: dict[str, tuple[TicketRow, StoredAnswer | None]] = {}
    for row in await _OUTCOMES.for_each_key(conn, "ids", list(ids)):
        ticket = TicketRow._make(row[:width])
        done = ticket.state == row[-1] == "done"
        found[ticket.id] = (ticket, StoredAnswer._make(row[width:-1]) if done else None)
    return found


async def settled_among(conn: AsyncConnection, ids: Sequence[str]) -> list[str]:
    """Those of the tickets that no service is asked about any more."""
    query = select(Ticket.id).where(Ticket.id.in_(ids), Ticket.state.not_in(ASKED))
    return list((await conn.execute(query)).scalars())


async def add(conn: AsyncConnection, rows: Sequence[dict[str, Any]]) -> None:
    if rows:
        await _ADD.many(conn, rows)


async def mark_running(conn: AsyncConnection, answer_keys: Sequence[str]) -> None:
    """Marks the tickets of claimed questions as running."""
    await _MARK_RUNNING.for_each_key(conn, "keys", answer_keys)


async def mark_queued(conn: AsyncConnection, answer_keys: Sequence[str]) -> None:
    """Marks the tickets of questions whose claim was released as queued."""
    if not answer_keys:
        return
    await conn.execute(
        update(Ticket)
        .where(Ticket.answer_key.in_(answer_keys), Ticket.state == "running")
        .values(state="queued")
    )


async def settle(
    conn: AsyncConnection,
    answer_keys: Sequence[str],
    state: str,
    problem: dict[str, Any] | None = None,
) -> list[Settled]:
    """Moves every live ticket of these answers to `state`."""
    values = {"keys": list(answer_keys), "b_state": state, "b_problem": problem}
    return [Settled(*row) for row in await _SETTLE.rows(conn, values)]


async def extend(conn: AsyncConnection, deadlines: Mapping[str, float]) -> None:
    """Sets the deadlines of the tickets of these answers."""
    await conn.execute(
        update(Ticket)
        .where(Ticket.answer_key == bindparam("b_key"), Ticket.state == "waiting")
        .values(deadline_at=bindparam("b_deadline")),
        [{"b_key": key, "b_deadline": deadline} for key, deadline in deadlines.items()],
    )


async def write_off(
    conn: AsyncConnection, answer_keys: Sequence[str], problem: dict[str, Any]
) -> None:
    """Fails tickets that were done with these answers."""
    await conn.execute(
        update(Ticket)
        .where(Ticket.answer_key.in_(answer_keys), Ticket.state == "done")
        .values(state="failed", problem=problem)
    )


async def expire(conn: AsyncConnection, now: float, problem: dict[str, Any]) -> list[Settled]:
    """Fails the tickets whose deadline has passed; a promised answer has its own deadline."""
    changed = await conn.execute(
        update(Ticket)
        .where(Ticket.state.in_(LIVE), Ticket.deadline_at <= now)
        .values(state="failed", problem=problem)
        .returning(Ticket.id, Ticket.answer_key, Ticket.run)
    )
    return [Settled(*row) for row in changed]


async def revive(conn: AsyncConnection, answer_keys: Sequence[str], now: float) -> list[float]:
    """Makes failed tickets of these answers live again, each for as long as at first.

    Returns:
        Their deadlines.
    """
    changed = await conn.execute(
        update(Ticket)
        .where(Ticket.answer_key.in_(answer_keys), Ticket.state == "failed")
        .values(
            state="queued", problem=None, deadline_at=now + Ticket.deadline_at - Ticket.created_at
        )
        .returning(Ticket.deadline_at)
    )
    return list(changed.scalars())


async def cancel(conn: AsyncConnection, ticket_id: str) -> list[Settled]:
    """Cancels one ticket if it is live."""
    changed = await conn.execute(
        update(Ticket)
        .where(Ticket.id == ticket_id, Ticket.state.in_(LIVE))
        .values(state="cancelled")
        .returning(Ticket.id, Ticket.answer_key, Ticket.run)
    )
    return [Settled(*row) for row in changed]


async def next_deadline(conn: AsyncConnection) -> float | None:
    """The earliest deadline of all tickets that wait for a service or its promise."""
    query = select(func.min(Ticket.deadline_at)).where(Ticket.state.in_(LIVE))
    return (await conn.execute(query)).scalar_one()


async def add_arrivals(conn: AsyncConnection, settled: Sequence[Settled]) -> None:
    """Adds arrivals. The cursor can rely on their order, since one transaction writes at a time."""
    rows = [{"run": t.run, "ticket_id": t.id} for t in settled if t.run is not None]
    if rows:
        await conn.execute(insert(Arrival), rows)


async def arrivals(
    conn: AsyncConnection, run: str, caller: str, after: int, limit: int
) -> list[ArrivalRow]:
    """Arrivals of `run` after the cursor `after`, oldest first."""
    query = (
        select(
            Arrival.cursor,
            Arrival.ticket_id,
            Ticket.answer_key,
            Ticket.idempotency_key,
            AnswerRow.answer_id,
            Ticket.rollout_id,
            Ticket.state,
        )
        .join(Ticket, Ticket.id == Arrival.ticket_id)
        .join(AnswerRow, AnswerRow.answer_key == Ticket.answer_key)
        .where(Arrival.run == run, Ticket.caller == caller, Arrival.cursor > after)
        .order_by(Arrival.cursor)
        .limit(limit)
    )
    return [
        ArrivalRow(*row[:4], row.answer_id if row.state == "done" else None, row.rollout_id)
        for row in await conn.execute(query)
    ]


async def tokens_in_flight(conn: AsyncConnection, callers: Iterable[str]) -> dict[str, int]:
    """Tokens of the unanswered questions of each of these callers."""
    query = (
        select(Ticket.caller, func.sum(Question.num_tokens))
        .join(Question, Question.answer_key == Ticket.answer_key)
        .where(Ticket.caller.in_(list(callers)), Ticket.state.in_(ASKED))
        .group_by(Ticket.caller)
    )
    return {row[0]: int(row[1]) for row in await conn.execute(query)}
