"""Queries about results of corrections: the cursor of results, and the expert's questions."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from typing import Any, Final, NamedTuple

from sqlalchemy import bindparam, func, insert, or_, select, text, update
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.orm import aliased

from preceptor_services.store.prepared import insert_new
from preceptor_services.store.sql import padded
from preceptor_services.store.tables.corrections import (
    CorrectionItem,
    CorrectionQuestion,
    CorrectionResult,
    CorrectionVersion,
    CorrectionVocabulary,
)
from preceptor_services.store.tables.provenance import (
    AnswerFeedback,
    Consumed,
    Rollout,
    Target,
    TargetAnswer,
)
from preceptor_services.store.tables.questions import AnswerRow, Question, Ticket

_TELLING: Final = 0x70726564


class Change(NamedTuple):
    """One change of an item, for trainers."""

    kind: str
    item_id: str
    run: str | None
    version_id: str | None
    reviewer: str | None


class ResultRow(NamedTuple):
    """One change of an authoritative result."""

    cursor: int
    kind: str
    item_id: str
    version_id: str | None
    reviewer: str | None
    round: str
    run: str | None
    rollout_id: str | None
    problem_id: str | None
    step: int | None
    decision: str | None
    text: str | None
    comment: str | None
    person: str | None


class DueRow(NamedTuple):
    """A question that can be answered now."""

    answer_key: str
    item_id: str
    version_id: str | None
    decision: str | None
    text: str | None
    expert_version: str
    frame: bytes


class RolloutRow(NamedTuple):
    """A recorded rollout."""

    id: str
    pack_sha256: str
    run: str
    step: int
    problem_id: str
    finish_reason: str
    weights: str


class UsedRow(NamedTuple):
    """A retired answer in a target."""

    target_id: str
    rollout_id: str
    run: str
    pack_sha256: str
    builder_version: str
    settings: dict[str, Any]
    answer_id: str


_TURN: Final = text(f"SELECT pg_advisory_xact_lock({_TELLING})")
_ADD: Final = insert(CorrectionResult)
_TOLD_OF: Final = (
    select(CorrectionResult.item_id)
    .where(CorrectionResult.item_id.in_(bindparam("items")))
    .distinct()
)


# ---------------------------------------------------------------- results


async def add(conn: AsyncConnection, changes: Sequence[Change], now: float) -> None:
    """Adds results under a lock that is held until the commit, because the cursor needs one writer.

    The caller must already hold the locks of its items: the order of locks is item, then this one.
    """
    if conn.dialect.name != "sqlite":
        await conn.execute(_TURN)
    await conn.execute(_ADD, [change._asdict() | {"created_at": now} for change in changes])


async def after(
    conn: AsyncConnection, *, cursor: int, limit: int, run: str | None, round_name: str | None
) -> list[ResultRow]:
    """Results after the cursor, oldest first."""
    query = (
        select(
            CorrectionResult.cursor,
            CorrectionResult.kind,
            CorrectionResult.item_id,
            CorrectionResult.version_id,
            CorrectionResult.reviewer,
            CorrectionItem.round,
            CorrectionItem.run,
            CorrectionItem.rollout_id,
            CorrectionItem.problem_id,
            CorrectionItem.step,
            CorrectionVersion.decision,
            CorrectionVersion.text,
            CorrectionVersion.comment,
            CorrectionVersion.person,
        )
        .join(CorrectionItem, CorrectionItem.id == CorrectionResult.item_id)
        .outerjoin(CorrectionVersion, CorrectionVersion.id == CorrectionResult.version_id)
        .where(CorrectionResult.cursor > cursor)
    )
    if run is not None:
        query = query.where(CorrectionResult.run == run)
    if round_name is not None:
        query = query.where(CorrectionItem.round == round_name)
    query = query.order_by(CorrectionResult.cursor).limit(limit)
    return [ResultRow(*row) for row in await conn.execute(query)]


async def told_of(conn: AsyncConnection, item_ids: Sequence[str]) -> set[str]:
    """Those of these items that have results."""
    return set((await conn.execute(_TOLD_OF, {"items": padded(item_ids)})).scalars())


# ---------------------------------------------------------------- questions


async def ask(conn: AsyncConnection, rows: Sequence[dict[str, Any]]) -> None:
    """Adds the questions whose keys are new."""
    await insert_new(conn, CorrectionQuestion, rows)


async def runs_of(conn: AsyncConnection, answer_keys: Sequence[str]) -> dict[str, str]:
    """The run that asked each question."""
    query = select(Ticket.answer_key, Ticket.run).where(
        Ticket.answer_key.in_(answer_keys), Ticket.run.is_not(None)
    )
    return {row[0]: str(row[1]) for row in await conn.execute(query)}


async def due(
    conn: AsyncConnection, limit: int, services: Collection[str] | None = None
) -> list[DueRow]:
    """Unanswered questions about settled items, the oldest first; only of `services` if given."""
    query = (
        select(
            CorrectionQuestion.answer_key,
            CorrectionQuestion.item_id,
            CorrectionItem.authoritative,
            CorrectionVersion.decision,
            CorrectionVersion.text,
            AnswerRow.version,
            Question.frame,
        )
        .join(CorrectionItem, CorrectionItem.id == CorrectionQuestion.item_id)
        .join(AnswerRow, AnswerRow.answer_key == CorrectionQuestion.answer_key)
        .join(Question, Question.answer_key == CorrectionQuestion.answer_key)
        .outerjoin(CorrectionVersion, CorrectionVersion.id == CorrectionItem.authoritative)
        .where(
            CorrectionQuestion.given_at.is_(None),
            CorrectionItem.state.in_(("done", "ended")),
        )
        .order_by(CorrectionQuestion.asked_at, CorrectionQuestion.answer_key)
        .limit(limit)
    )
    if services is not None:
        query = query.where(AnswerRow.service.in_(services))
    return [DueRow(*row) for row in await conn.execute(query)]


async def give(conn: AsyncConnection, versions: dict[str, str | None], *, now: float) -> None:
    """Records answers with their versions; a later call for the same key changes nothing."""
    for answer_key, version_id in versions.items():
        await conn.execute(
            update(CorrectionQuestion)
            .where(
                CorrectionQuestion.answer_key == answer_key, CorrectionQuestion.given_at.is_(None)
            )
            .values(given_at=now, version_id=version_id)
        )


async def ask_again(conn: AsyncConnection, item_id: str, version_id: str | None, now: float) -> int:
    """Opens a new question for each one that was answered with another version.

    An answer never changes, so that training can be replayed. A revision is a new answer, which
    arrives like the first one, on a copy of the ticket.
    """
    rows = await conn.execute(
        select(CorrectionQuestion.answer_key, CorrectionQuestion.original_key)
        .where(
            CorrectionQuestion.item_id == item_id,
            CorrectionQuestion.takeover.is_(False),
            CorrectionQuestion.given_at.is_not(None),
        )
        .order_by(CorrectionQuestion.asked_at)
    )
    originals = dict.fromkeys(row.original_key or row.answer_key for row in rows)
    asked = 0
    for original in originals:
        asked += await copy_question(conn, original, item_id, version_id, now)
    return asked


async def shared_with(
    conn: AsyncConnection, version_ids: Sequence[str]
) -> list[tuple[str, str, str]]:
    """Tuples (item, its version, question) of other runs' done items that got these versions.

    If a run repeats a question of an earlier run, it gets the earlier answer, although its own item
    with the same content has its own authoritative version.
    """
    other = aliased(CorrectionItem)
    asked = func.coalesce(CorrectionQuestion.original_key, CorrectionQuestion.answer_key)
    query = (
        select(other.id, other.authoritative, asked)
        .select_from(CorrectionQuestion)
        .join(CorrectionItem, CorrectionItem.id == CorrectionQuestion.item_id)
        .join(other, other.content_sha256 == CorrectionItem.content_sha256)
        .join(
            Ticket, (Ticket.answer_key == CorrectionQuestion.answer_key) & (Ticket.run == other.run)
        )
        .where(
            CorrectionQuestion.version_id.in_(padded(version_ids)),
            CorrectionQuestion.takeover.is_(False),
            other.id != CorrectionItem.id,
            other.state == "done",
        )
        .distinct()
        .order_by(other.id)
    )
    return [(row[0], str(row[1]), row[2]) for row in await conn.execute(query)]


async def copy_question(
    conn: AsyncConnection, original: str, item_id: str, version_id: str | None, now: float
) -> int:
    """Repeats the question `original` about this item; returns the number of new questions."""
    digest = hashlib.sha256(f"{original}\0{version_id}\0{now}".encode()).hexdigest()
    answer = (
        (await conn.execute(select(AnswerRow.__table__).where(AnswerRow.answer_key == original)))
        .mappings()
        .first()
    )
    if answer is None:
        return 0
    fresh: dict[str, Any] = {
        **dict.fromkeys(map(str, answer)),
        **{name: answer[name] for name in ("kind", "service", "version", "ordinal")},
        "answer_key": digest,
        "answer_id": f"a-{digest[:24]}",
        "state": "waiting",
        "created_at": now,
    }
    await conn.execute(insert(AnswerRow), [fresh])
    question = (
        (await conn.execute(select(Question.__table__).where(Question.answer_key == original)))
        .mappings()
        .one()
    )
    await conn.execute(insert(Question), [{**question, "answer_key": digest}])
    tickets = await conn.execute(
        select(Ticket.__table__).where(Ticket.answer_key == original, Ticket.state == "done")
    )
    copies = [_ticket_copy(dict(row), digest, now) for row in tickets.mappings()]
    if copies:
        await conn.execute(insert(Ticket), copies)
    row = {
        "answer_key": digest,
        "item_id": item_id,
        "asked_at": now,
        "given_at": None,
        "version_id": None,
        "takeover": False,
        "original_key": original,
    }
    await conn.execute(insert(CorrectionQuestion), [row])
    return 1


def _ticket_copy(ticket: dict[str, Any], answer_key: str, now: float) -> dict[str, Any]:
    key = f"{ticket['idempotency_key'][:160]}#{answer_key[:12]}"
    digest = hashlib.sha256(f"{ticket['caller']}\0{key}".encode()).hexdigest()
    return {
        **ticket,
        "id": f"k-{digest[:32]}",
        "idempotency_key": key,
        "answer_key": answer_key,
        "state": "waiting",
        "cached": False,
        "created_at": now,
        # The same time limit as for the first answer.
        "deadline_at": now + ticket["deadline_at"] - ticket["created_at"],
    }


async def behind_answer(conn: AsyncConnection, answer_id: str) -> str | None:
    """The version from which an answer of the people's expert was made."""
    query = (
        select(CorrectionQuestion.version_id)
        .join(AnswerRow, AnswerRow.answer_key == CorrectionQuestion.answer_key)
        .where(AnswerRow.answer_id == answer_id)
    )
    return (await conn.execute(query)).scalar()


# ---------------------------------------------------------------- uses of versions


async def targets_with(conn: AsyncConnection, version_ids: Sequence[str]) -> list[UsedRow]:
    """Targets with an answer that was made from these versions, or had them as feedback."""
    spoken = (
        select(AnswerRow.answer_id)
        .join(CorrectionQuestion, CorrectionQuestion.answer_key == AnswerRow.answer_key)
        .where(CorrectionQuestion.version_id.in_(version_ids))
    )
    seen = (
        select(AnswerRow.answer_id)
        .join(AnswerFeedback, AnswerFeedback.answer_key == AnswerRow.answer_key)
        .where(AnswerFeedback.item_id.in_([f"correction-{v}" for v in version_ids]))
    )
    query = (
        select(
            Target.id,
            Target.rollout_id,
            Rollout.run,
            Target.pack_sha256,
            Target.builder_version,
            Target.settings,
            TargetAnswer.answer_id,
        )
        .join(Target, Target.id == TargetAnswer.target_id)
        .join(Rollout, Rollout.id == Target.rollout_id)
        .where(or_(TargetAnswer.answer_id.in_(spoken), TargetAnswer.answer_id.in_(seen)))
        .order_by(Target.id, TargetAnswer.ordinal)
    )
    return [UsedRow(*row) for row in await conn.execute(query)]


async def steps_with(
    conn: AsyncConnection, target_ids: Sequence[str]
) -> dict[str, list[tuple[str, str]]]:
    """(run, `lineage/step`) of each step that consumed a target."""
    query = (
        select(Consumed.target_id, Consumed.run, Consumed.lineage, Consumed.step)
        .where(Consumed.target_id.in_(target_ids))
        .order_by(Consumed.run, Consumed.lineage, Consumed.step)
    )
    found: dict[str, list[tuple[str, str]]] = {}
    for row in await conn.execute(query):
        found.setdefault(str(row[0]), []).append((row[1], f"{row[2]}/{row[3]}"))
    return found


async def targets_of_rollout(conn: AsyncConnection, rollout_id: str) -> list[tuple[str, str]]:
    """(id, pack) of a rollout's targets, the oldest first."""
    query = (
        select(Target.id, Target.pack_sha256)
        .where(Target.rollout_id == rollout_id)
        .order_by(Target.created_at, Target.id)
    )
    return [(row[0], row[1]) for row in await conn.execute(query)]


async def rollouts(conn: AsyncConnection, ids: Sequence[str]) -> dict[str, RolloutRow]:
    """Those of `ids` that are recorded."""
    query = select(
        Rollout.id,
        Rollout.pack_sha256,
        Rollout.run,
        Rollout.step,
        Rollout.problem_id,
        Rollout.finish_reason,
        Rollout.weights,
    ).where(Rollout.id.in_(ids))
    return {row[0]: RolloutRow(*row) for row in await conn.execute(query)}


# ---------------------------------------------------------------- vocabularies


async def put_vocabulary(
    conn: AsyncConnection, fingerprint: str, blob_sha256: str, num_pieces: int
) -> None:
    """Stores the spelling of a vocabulary; a second call changes nothing."""
    row = {"fingerprint": fingerprint, "blob_sha256": blob_sha256, "num_pieces": num_pieces}
    await insert_new(conn, CorrectionVocabulary, [row])


async def vocabulary(conn: AsyncConnection, fingerprint: str) -> str | None:
    """The blob of a vocabulary's pieces."""
    query = select(CorrectionVocabulary.blob_sha256).where(
        CorrectionVocabulary.fingerprint == fingerprint
    )
    return (await conn.execute(query)).scalar()
