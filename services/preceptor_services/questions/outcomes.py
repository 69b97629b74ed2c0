"""Outcomes of tickets: states, problems and answers; a request may wait for them."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Final, cast

from preceptor_clients.contract.errors import (
    Cancelled,
    Invalid,
    MalformedFrame,
    NotFound,
    ProblemDetails,
)
from preceptor_clients.contract.schemas import (
    FeedbackAnswer,
    FeedbackOutcome,
    FeedbackOutcomes,
    LogprobsOutcomes,
    PrefixAnswer,
    PrefixOutcome,
    Ticket,
    TicketState,
)
from preceptor_services.kit.blobs import BlobDamaged
from preceptor_services.kit.group_commit import GroupCommit
from preceptor_services.kit.threads import ITEM, off_loop
from preceptor_services.questions.answer_blobs import AnswerBlobs
from preceptor_services.questions.notifier import Watch
from preceptor_services.questions.submit import Posted
from preceptor_services.questions.withdrawn import items_that_count
from preceptor_services.store.database import Database
from preceptor_services.store.provenance import feedback
from preceptor_services.store.provenance.feedback import ItemRow
from preceptor_services.store.questions import answers, tickets
from preceptor_services.store.questions.answers import StoredAnswer
from preceptor_services.store.questions.states import ASKED
from preceptor_services.store.questions.tickets import TicketRow

_log = logging.getLogger("preceptor.gateway")
_OUTCOME: Final = ITEM // 4
"""One outcome without its answer; more than 512 are built in a thread."""
Row = tuple[TicketRow, StoredAnswer | None]
"""A ticket, with its answer where it is done."""


class Outcomes:
    """Reads outcomes; requests that are woken together share a query."""

    def __init__(self, database: Database, answer_blobs: AnswerBlobs) -> None:
        self.database = database
        self._answer_blobs = answer_blobs
        self._read = GroupCommit(self._read_all)

    async def of_prefixes(
        self, caller: str, posted: Sequence[Posted], wait_ms: int, watch: Watch
    ) -> LogprobsOutcomes:
        """One outcome per submission, in order, when all are settled or the wait is over.

        Arrays of the answers may be unread (`wire.read`).
        """
        await watch.wait(wait_ms / 1000)
        rows = await self._rows(caller, [p.ticket_id for p in posted if p.ticket_id is not None])
        found, lost = await self._prefix_answers([stored for _, stored in rows.values()])
        if lost:
            await self._write_off(lost)
        size = _OUTCOME * len(posted)
        return await off_loop(size, _prefix_outcomes, posted, rows, found, lost)

    async def _write_off(self, lost: Mapping[str, ProblemDetails]) -> None:
        """Fails answers whose arrays are lost, so that they can be asked again."""
        async with self.database.write() as conn:
            for key, problem in lost.items():
                document = problem.model_dump(mode="json", exclude_none=True)
                await answers.write_off(conn, [key], document)
                await tickets.write_off(conn, [key], document)

    async def of_feedback(
        self, caller: str, posted: Sequence[Posted], wait_ms: int, watch: Watch
    ) -> FeedbackOutcomes:
        """As `of_prefixes`, for sources."""
        await watch.wait(wait_ms / 1000)
        rows = await self._rows(caller, [p.ticket_id for p in posted if p.ticket_id is not None])
        found = await self._feedback_answers([stored for _, stored in rows.values()])
        return FeedbackOutcomes(
            outcomes=tuple(
                FeedbackOutcome(problem=p.problem)
                if p.ticket_id is None
                else FeedbackOutcome(
                    ticket=_ticket(row := rows[p.ticket_id]),
                    problem=_problem(row[0]),
                    answer=None if row[1] is None else found.get(row[1].answer_key),
                )
                for p in posted
            )
        )

    async def kind_of(self, caller: str, ticket_ids: Sequence[str], watch: Watch) -> str:
        """`logprobs` or `feedback`, which all of these tickets must be; settles the watch.

        Raises:
            NotFound: one of them is not the caller's.
            Invalid: they are of both kinds.
        """
        rows = await self._rows(caller, ticket_ids)
        watch.settle(i for i, (ticket, _) in rows.items() if ticket.state not in ASKED)
        kinds = {ticket.kind for ticket, _ in rows.values()}
        if len(kinds) > 1:
            raise Invalid(
                "are of both kinds; collect logprobs and feedback in separate requests",
                field="tickets",
            )
        return kinds.pop() if kinds else "logprobs"

    async def ticket(self, caller: str, ticket_id: str) -> Ticket:
        """One ticket."""
        return _ticket((await self._rows(caller, [ticket_id]))[ticket_id])

    async def _rows(self, caller: str, ids: Sequence[str]) -> dict[str, Row]:
        """Tickets of `caller`."""
        rows = await self._read(ids)
        for ticket_id in ids:
            if ticket_id not in rows or rows[ticket_id][0].caller != caller:
                raise NotFound(f"this caller has no ticket {ticket_id!r}", field="ticket")
        return rows

    async def _read_all(self, wanted: Sequence[Sequence[str]]) -> list[dict[str, Row] | Exception]:
        async with self.database.read() as conn:
            rows = await tickets.outcomes(conn, {i for ids in wanted for i in ids})
        return [{i: rows[i] for i in ids if i in rows} for ids in wanted]

    async def _prefix_answers(
        self, stored: Sequence[StoredAnswer | None]
    ) -> tuple[dict[str, PrefixAnswer], dict[str, ProblemDetails]]:
        """Answers by their keys, and why others cannot be read."""
        places = {a.answer_key: a.pack_sha256 for a in stored if a is not None and a.pack_sha256}
        read: dict[str, dict[str, PrefixAnswer]] = {}
        damaged: dict[str, ProblemDetails] = {}
        for sha in set(places.values()):
            try:
                read[sha] = await self._answer_blobs.read(sha)
            except (BlobDamaged, MalformedFrame, NotFound) as error:
                _log.error("answers are lost: %s", error.detail)
                damaged[sha] = BlobDamaged(f"the stored answer is lost; ask again: {sha}").problem()
        found = {key: read[sha][key] for key, sha in places.items() if sha in read}
        return found, {key: damaged[sha] for key, sha in places.items() if sha in damaged}

    async def _feedback_answers(
        self, stored: Sequence[StoredAnswer | None]
    ) -> dict[str, FeedbackAnswer]:
        done = {answer.answer_key: answer for answer in stored if answer is not None}
        if not done:
            return {}
        async with self.database.read() as conn:
            items = await feedback.of_answers(conn, list(done))
        return {key: _feedback_answer(answer, items.get(key, [])) for key, answer in done.items()}


def _prefix_outcomes(
    posted: Sequence[Posted],
    rows: Mapping[str, Row],
    found: Mapping[str, PrefixAnswer],
    lost: Mapping[str, ProblemDetails],
) -> LogprobsOutcomes:
    return LogprobsOutcomes(
        outcomes=tuple(
            PrefixOutcome(problem=p.problem)
            if p.ticket_id is None
            else PrefixOutcome(
                ticket=_ticket(row := rows[p.ticket_id]),
                problem=lost.get(row[0].answer_key) or _problem(row[0]),
                answer=None if row[1] is None else found.get(row[1].answer_key),
            )
            for p in posted
        )
    )


def _feedback_answer(stored: StoredAnswer, items: Sequence[ItemRow]) -> FeedbackAnswer:
    return FeedbackAnswer(
        items=tuple(items_that_count(items)),
        source=stored.expert or stored.service,
        source_version=stored.version,
        latency_ms=stored.latency_ms,
        cost=stored.cost,
    )


def _ticket(row: Row) -> Ticket:
    ticket, answer = row
    return Ticket(
        id=ticket.id,
        state=cast("TicketState", ticket.state),
        answer_key=ticket.answer_key,
        answer_id=None if answer is None else answer.answer_id,
        cached=ticket.cached,
    )


def _problem(row: TicketRow) -> ProblemDetails | None:
    if row.state == "cancelled":
        return Cancelled(f"ticket {row.id} was cancelled").problem()
    return None if row.problem is None else ProblemDetails.model_validate(row.problem)
