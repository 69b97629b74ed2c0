"""Receives answers that an expert promised earlier: they settle tickets and arrive at runs."""

from __future__ import annotations

from dataclasses import dataclass

from preceptor_clients.contract.checks import check_answer
from preceptor_clients.contract.errors import (
    Conflict,
    Forbidden,
    Invalid,
    NotFound,
    ServiceUnavailable,
)
from preceptor_clients.contract.schemas import (
    Arrival,
    Arrivals,
    PrefixAnswer,
    PrefixQuery,
)
from preceptor_services.jobs.messages import ItemResult
from preceptor_services.kit.array_blobs import Written
from preceptor_services.kit.clock import Clock
from preceptor_services.kit.metrics import Metrics
from preceptor_services.questions.accept import Acceptance, Evidence, accept_prefix
from preceptor_services.questions.answer_blobs import AnswerBlobs
from preceptor_services.questions.notifier import Notifier
from preceptor_services.questions.question import unpack_query
from preceptor_services.questions.report import visible_items
from preceptor_services.questions.settle import write_acceptance
from preceptor_services.registry.keyring import Caller
from preceptor_services.registry.services import Registry
from preceptor_services.store.database import Database
from preceptor_services.store.questions import answers, tickets


@dataclass(frozen=True, kw_only=True)
class LateAnswers:
    """Serves experts that answer late."""

    database: Database
    answer_blobs: AnswerBlobs
    registry: Registry
    notifier: Notifier
    clock: Clock
    metrics: Metrics

    async def put(self, answer_key: str, answer: PrefixAnswer, caller: Caller) -> None:
        """Stores a promised answer of one of the caller's experts.

        Raises:
            NotFound: no question has this key.
            Forbidden: the question is to another expert.
            ServiceUnavailable: no promise has been reported yet; a retry may succeed.
            AnswerRefused: the answer failed a check.
            Conflict: another answer is already stored, or the promise expired.
        """
        async with self.database.read() as conn:
            state = (await answers.find(conn, [answer_key])).get(answer_key)
            packed = await answers.question_frame(conn, answer_key)
        if state is None or packed is None or state.kind != "logprobs":
            raise NotFound(f"no question has the answer key {answer_key}", field="answer_key")
        if not caller.speaks_for(state.service):
            raise Forbidden(
                f"the key of {caller.name} is for {sorted(caller.services)}; this question is to "
                "another expert",
                field="answer_key",
            )
        query = unpack_query("logprobs", packed)
        assert isinstance(query, PrefixQuery), "its kind is logprobs"
        entry = self.registry.get(state.service, "expert", field="answer_key")
        check_answer(query, answer, entry.known_info().capabilities)
        pack = await self.answer_blobs.write({answer_key: answer})
        await self._store(answer_key, answer, pack)

    async def _store(self, answer_key: str, answer: PrefixAnswer, pack: Written) -> None:
        now = self.clock.now()
        async with self.database.write() as conn:
            states = await answers.find(conn, [answer_key])
            state = states[answer_key]
            if state.state == "done":
                stored = (await answers.stored(conn, [answer_key]))[answer_key]
                if stored.pack_sha256 != pack.sha256:
                    raise Conflict("another answer is already stored", field="answer_key")
                return
            if state.state == "failed":
                raise Conflict("the promise has expired", field="answer_key")
            if state.state == "pending":
                raise ServiceUnavailable(
                    "the promise of this answer has not been reported yet",
                    field="answer_key",
                    retry_after_s=1.0,
                )
            result = ItemResult(answer_key=answer_key, prefix=answer)
            evidence = Evidence(
                states=states,
                visible_items=await visible_items(conn, [result]),
                pack_sha256=pack.sha256,
                names=self.registry.names_of,
                late_s=self.registry.late_s,
                cost=self.registry.cost,
                now=now,
            )
            acceptance = Acceptance()
            accept_prefix(acceptance, evidence, state, answer)
            for problem in acceptance.failed.values():
                raise Invalid(problem.detail, errors=problem.errors)
            settled = await write_acceptance(conn, acceptance, pack, now)
            await tickets.add_arrivals(conn, settled)
        self.metrics.count_answers(acceptance.tally(states))
        self.notifier.notify(ticket.id for ticket in settled)

    async def arrivals(self, run: str, caller: str, after: int, limit: int) -> Arrivals:
        """Late answers of a run since the cursor `after`, oldest first."""
        async with self.database.read() as conn:
            rows = await tickets.arrivals(conn, run, caller, after, limit)
        return Arrivals(
            cursor=rows[-1].cursor if rows else after,
            arrivals=tuple(
                Arrival(
                    ticket=row.ticket_id,
                    answer_key=row.answer_key,
                    idempotency_key=row.idempotency_key,
                    answer_id=row.answer_id,
                    rollout_id=row.rollout_id,
                )
                for row in rows
            ),
        )
