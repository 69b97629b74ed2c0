"""Queries about answers and their questions; some are built once, as in `tickets.py`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any, Final, NamedTuple

from sqlalchemy import bindparam, exists, func, insert, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from preceptor_services.store.prepared import Prepared
from preceptor_services.store.questions.states import ASKED, LIVE
from preceptor_services.store.tables.questions import AnswerRow, Question, Ticket


class AnswerState(NamedTuple):
    """The state of one question."""

    answer_key: str
    answer_id: str
    kind: str
    service: str
    version: str
    state: str
    job_id: str | None

    @property
    def is_pending(self) -> bool:
        """Whether it has no answer, no failure and no promise yet."""
        return self.state == "pending"


class StoredAnswer(NamedTuple):
    """One answer that is done."""

    answer_key: str
    answer_id: str
    pack_sha256: str | None
    service: str
    version: str
    expert: str | None
    latency_ms: float | None
    cost: float | None


class WantedQuestion(NamedTuple):
    """A question with a live ticket."""

    job_id: str
    answer_key: str
    frame: bytes
    deadline_at: float


_STATE_COLUMNS: Final = (
    AnswerRow.answer_key,
    AnswerRow.answer_id,
    AnswerRow.kind,
    AnswerRow.service,
    AnswerRow.version,
    AnswerRow.state,
    AnswerRow.job_id,
)
STORED_COLUMNS: Final = (
    AnswerRow.answer_key,
    AnswerRow.answer_id,
    AnswerRow.pack_sha256,
    AnswerRow.service,
    AnswerRow.version,
    AnswerRow.expert,
    AnswerRow.latency_ms,
    AnswerRow.cost,
)
"""The columns of `StoredAnswer`, in its order."""


_FIND: Final = Prepared(select(*_STATE_COLUMNS).where(AnswerRow.answer_key.in_(bindparam("keys"))))
_FIND_WITH_JOBS: Final = Prepared(
    select(*_STATE_COLUMNS)
    .where(
        or_(AnswerRow.answer_key.in_(bindparam("keys")), AnswerRow.job_id.in_(bindparam("jobs")))
    )
    .order_by(AnswerRow.job_id, AnswerRow.ordinal)
)
_DEADLINES: Final = (
    select(Ticket.answer_key, func.max(Ticket.deadline_at).label("deadline_at"))
    .where(Ticket.state.in_(ASKED), Ticket.deadline_at > bindparam("now"))
    .where(
        Ticket.answer_key.in_(
            select(AnswerRow.answer_key).where(AnswerRow.job_id.in_(bindparam("jobs")))
        )
    )
    .group_by(Ticket.answer_key)
    .subquery()
)
_WANTED: Final = Prepared(
    select(AnswerRow.job_id, AnswerRow.answer_key, Question.frame, _DEADLINES.c.deadline_at)
    .join(Question, Question.answer_key == AnswerRow.answer_key)
    .join(_DEADLINES, _DEADLINES.c.answer_key == AnswerRow.answer_key)
    .where(AnswerRow.job_id.in_(bindparam("jobs")), AnswerRow.state == "pending")
    .order_by(AnswerRow.job_id, AnswerRow.ordinal)
)
_ADD: Final = Prepared(insert(AnswerRow))
_ADD_QUESTIONS: Final = Prepared(insert(Question))


async def find(conn: AsyncConnection, keys: Iterable[str]) -> dict[str, AnswerState]:
    """Those of `keys` that were asked before."""
    rows = await _FIND.for_each_key(conn, "keys", list(keys))
    return {row[0]: AnswerState(*row) for row in rows}


async def find_with_jobs(
    conn: AsyncConnection, keys: Iterable[str], job_ids: Sequence[str]
) -> dict[str, AnswerState]:
    """Those of `keys` that were asked before, and every question of these jobs, in their order."""
    rows = await _FIND_WITH_JOBS.rows(conn, {"keys": list(keys), "jobs": list(job_ids)})
    return {row[0]: AnswerState(*row) for row in rows}


async def stored(conn: AsyncConnection, keys: Iterable[str]) -> dict[str, StoredAnswer]:
    """Those of `keys` that are done."""
    query = select(*STORED_COLUMNS).where(
        AnswerRow.answer_key.in_(list(keys)), AnswerRow.state == "done"
    )
    return {row.answer_key: StoredAnswer(*row) for row in await conn.execute(query)}


async def known_ids(conn: AsyncConnection, answer_ids: Iterable[str]) -> set[str]:
    """Those of `answer_ids` that have been done."""
    # Includes quarantined answers: a trainer that has used one must be able to record it.
    query = select(AnswerRow.answer_id).where(
        AnswerRow.answer_id.in_(list(answer_ids)), AnswerRow.done_at.is_not(None)
    )
    return set((await conn.execute(query)).scalars())


async def add(
    conn: AsyncConnection, rows: Sequence[dict[str, Any]], questions: Sequence[dict[str, Any]]
) -> None:
    """Adds questions without answers."""
    if rows:
        await _ADD.many(conn, rows)
        await _ADD_QUESTIONS.many(conn, questions)


async def reopen(conn: AsyncConnection, rows: Sequence[dict[str, Any]]) -> None:
    """Reopens failed questions: each row has `answer_key`, `job_id` and `ordinal`."""
    if rows:
        await conn.execute(
            update(AnswerRow)
            .where(AnswerRow.answer_key == bindparam("b_key"))
            .values(
                state="pending", problem=None, job_id=bindparam("b_job"), ordinal=bindparam("b_ord")
            ),
            [{"b_key": r["answer_key"], "b_job": r["job_id"], "b_ord": r["ordinal"]} for r in rows],
        )


async def wanted(conn: AsyncConnection, job_ids: Sequence[str], now: float) -> list[WantedQuestion]:
    """Unanswered questions of these jobs that have a live ticket, in the order asked."""
    rows = await _WANTED.rows(conn, {"jobs": list(job_ids), "now": now})
    return [WantedQuestion(*row) for row in rows]


async def pending_keys(conn: AsyncConnection, job_ids: Sequence[str]) -> dict[str, str]:
    """The job of every unanswered question of these jobs."""
    query = select(AnswerRow.answer_key, AnswerRow.job_id).where(
        AnswerRow.job_id.in_(job_ids), AnswerRow.state == "pending"
    )
    rows = await conn.execute(query)
    return {answer_key: job_id for answer_key, job_id in rows if job_id is not None}


async def open_questions(conn: AsyncConnection, service: str) -> dict[str, str | None]:
    """The job of every question to a service that is not answered, promised ones included."""
    query = select(AnswerRow.answer_key, AnswerRow.job_id).where(
        AnswerRow.service == service, AnswerRow.state.in_(("pending", "waiting"))
    )
    return {row.answer_key: row.job_id for row in await conn.execute(query)}


async def question_frame(conn: AsyncConnection, answer_key: str) -> bytes | None:
    """The question as a compressed frame."""
    query = select(Question.frame).where(Question.answer_key == answer_key)
    return (await conn.execute(query)).scalar_one_or_none()


async def finish(conn: AsyncConnection, rows: Sequence[dict[str, Any]]) -> None:
    """Stores answers; each row has every column of an answer."""
    if not rows:
        return
    columns = tuple(name for name in rows[0] if name != "answer_key")
    named = [{f"b_{name}": value for name, value in row.items()} for row in rows]
    await _finish(columns).many(conn, named)


@cache
def _finish(columns: tuple[str, ...]) -> Prepared:
    return Prepared(
        update(AnswerRow)
        .where(AnswerRow.answer_key == bindparam("b_answer_key"))
        .values(state="done", problem=None, **{name: bindparam(f"b_{name}") for name in columns})
    )


async def fail(conn: AsyncConnection, keys: Sequence[str], problem: dict[str, Any]) -> None:
    """Marks questions as failed; a later submission asks them again."""
    await conn.execute(
        update(AnswerRow)
        .where(AnswerRow.answer_key.in_(keys), AnswerRow.state != "done")
        .values(state="failed", problem=problem)
    )


async def write_off(conn: AsyncConnection, keys: Sequence[str], problem: dict[str, Any]) -> None:
    """Marks done answers as failed, since they may be wrong; a later submission asks them again."""
    await conn.execute(
        update(AnswerRow)
        .where(AnswerRow.answer_key.in_(keys), AnswerRow.state == "done")
        .values(state="failed", problem=problem)
    )


async def promise(conn: AsyncConnection, keys: Sequence[str]) -> None:
    """Marks questions that the expert has promised to answer later."""
    if not keys:
        return
    await conn.execute(
        update(AnswerRow)
        .where(AnswerRow.answer_key.in_(keys), AnswerRow.state == "pending")
        .values(state="waiting")
    )


async def abandon(conn: AsyncConnection, keys: Sequence[str], problem: dict[str, Any]) -> set[str]:
    """Fails those of `keys` that have no live ticket; returns the ids of their jobs."""
    wanted_by = exists().where(Ticket.answer_key == AnswerRow.answer_key, Ticket.state.in_(LIVE))
    changed = await conn.execute(
        update(AnswerRow)
        .where(AnswerRow.answer_key.in_(keys), AnswerRow.state.in_(("pending", "waiting")))
        .where(~wanted_by)
        .values(state="failed", problem=problem)
        .returning(AnswerRow.job_id)
    )
    return {job_id for job_id in changed.scalars() if job_id is not None}
