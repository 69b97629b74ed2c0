"""What has become of tickets: states, problems and answers, waited for on demand."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from preceptor_clients.errors import Cancelled, Invalid, NotFound, Problem
from preceptor_clients.schemas import (
    FeedbackAnswer,
    FeedbackItem,
    FeedbackOutcome,
    FeedbackOutcomes,
    LogprobsOutcomes,
    PrefixAnswer,
    PrefixOutcome,
    Ticket,
    TicketState,
)
from preceptor_services.gateway.notifier import Notifier
from preceptor_services.gateway.packs import Packs
from preceptor_services.gateway.submission import Posted
from preceptor_services.store import answers, feedback, tickets
from preceptor_services.store.answers import StoredAnswer
from preceptor_services.store.database import Database
from preceptor_services.store.feedback import ItemRow
from preceptor_services.store.tickets import ASKED, TicketRow


@dataclass(frozen=True, kw_only=True)
class Outcomes:
    """Reads outcomes."""

    database: Database
    packs: Packs
    notifier: Notifier

    async def of_prefixes(
        self, caller: str, posted: Sequence[Posted], wait_ms: int
    ) -> LogprobsOutcomes:
        """One outcome per submission, in order, when all are settled or the wait is over."""
        rows = await self._settled(caller, posted, wait_ms)
        stored, found = await self._prefix_answers(rows)
        return LogprobsOutcomes(
            outcomes=tuple(
                PrefixOutcome(problem=p.problem)
                if p.ticket_id is None
                else PrefixOutcome(
                    ticket=_ticket(row := rows[p.ticket_id], stored),
                    problem=_problem(row),
                    answer=found.get(row.answer_key) if row.state == "done" else None,
                )
                for p in posted
            )
        )

    async def of_feedback(
        self, caller: str, posted: Sequence[Posted], wait_ms: int
    ) -> FeedbackOutcomes:
        """As `of_prefixes`, for sources."""
        rows = await self._settled(caller, posted, wait_ms)
        stored, found = await self._feedback_answers(rows)
        return FeedbackOutcomes(
            outcomes=tuple(
                FeedbackOutcome(problem=p.problem)
                if p.ticket_id is None
                else FeedbackOutcome(
                    ticket=_ticket(row := rows[p.ticket_id], stored),
                    problem=_problem(row),
                    answer=found.get(row.answer_key) if row.state == "done" else None,
                )
                for p in posted
            )
        )

    async def kind_of(self, caller: str, ticket_ids: Sequence[str]) -> str:
        """`logprobs` or `feedback`, which all of these tickets must be.

        Raises:
            NotFound: one of them is not the caller's.
            Invalid: they are of both kinds.
        """
        async with self.database.read() as conn:
            rows = await _own(conn, caller, ticket_ids)
        kinds = {row.kind for row in rows.values()}
        if len(kinds) > 1:
            raise Invalid("are of both kinds; collect each by itself", field="tickets")
        return kinds.pop() if kinds else "logprobs"

    async def ticket(self, caller: str, ticket_id: str) -> Ticket:
        """One ticket."""
        async with self.database.read() as conn:
            row = (await _own(conn, caller, [ticket_id]))[ticket_id]
            stored = await answers.stored(conn, [row.answer_key])
        return _ticket(row, stored)

    async def _settled(
        self, caller: str, posted: Sequence[Posted], wait_ms: int
    ) -> dict[str, TicketRow]:
        ids = [p.ticket_id for p in posted if p.ticket_id is not None]
        with self.notifier.watch(ids) as watch:
            rows = await self._rows(caller, ids)
            watch.settle(i for i, row in rows.items() if row.state not in ASKED)
            if not wait_ms or not watch.pending:
                return rows
            await watch.wait(wait_ms / 1000)
        return await self._rows(caller, ids)

    async def _rows(self, caller: str, ids: Sequence[str]) -> dict[str, TicketRow]:
        async with self.database.read() as conn:
            return await _own(conn, caller, ids)

    async def _prefix_answers(
        self, rows: Mapping[str, TicketRow]
    ) -> tuple[dict[str, StoredAnswer], dict[str, PrefixAnswer]]:
        async with self.database.read() as conn:
            stored = await answers.stored(conn, _done_keys(rows))
        places = {key: a.pack_sha256 for key, a in stored.items() if a.pack_sha256 is not None}
        packs = {sha: await self.packs.read(sha) for sha in set(places.values())}
        entries = {key: packs[sha][key] for key, sha in places.items()}
        return stored, await asyncio.to_thread(_parsed, entries)

    async def _feedback_answers(
        self, rows: Mapping[str, TicketRow]
    ) -> tuple[dict[str, StoredAnswer], dict[str, FeedbackAnswer]]:
        async with self.database.read() as conn:
            stored = await answers.stored(conn, _done_keys(rows))
            items = await feedback.of_answers(conn, list(stored))
        return stored, {
            key: _feedback_answer(answer, items.get(key, [])) for key, answer in stored.items()
        }


async def _own(conn: Any, caller: str, ids: Sequence[str]) -> dict[str, TicketRow]:
    rows = await tickets.find(conn, ids)
    for ticket_id in ids:
        if ticket_id not in rows or rows[ticket_id].caller != caller:
            raise NotFound(f"no ticket {ticket_id!r} of yours", field="ticket")
    return rows


def _done_keys(rows: Mapping[str, TicketRow]) -> list[str]:
    return [row.answer_key for row in rows.values() if row.state == "done"]


def _parsed(entries: Mapping[str, Mapping[str, Any]]) -> dict[str, PrefixAnswer]:
    return {key: PrefixAnswer.model_validate(entry) for key, entry in entries.items()}


def _feedback_answer(stored: StoredAnswer, items: Sequence[ItemRow]) -> FeedbackAnswer:
    return FeedbackAnswer(
        items=tuple(FeedbackItem.model_validate(item.document) for item in items),
        source=stored.expert or stored.service,
        source_version=stored.version,
        latency_ms=stored.latency_ms,
        cost=stored.cost,
    )


def _ticket(row: TicketRow, stored: Mapping[str, StoredAnswer]) -> Ticket:
    answer = stored.get(row.answer_key) if row.state == "done" else None
    return Ticket(
        id=row.id,
        state=cast("TicketState", row.state),
        answer_key=row.answer_key,
        answer_id=None if answer is None else answer.answer_id,
        cached=row.cached,
    )


def _problem(row: TicketRow) -> Problem | None:
    if row.state == "cancelled":
        return Cancelled(f"ticket {row.id} was cancelled").problem()
    return None if row.problem is None else Problem.model_validate(row.problem)
