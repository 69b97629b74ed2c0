"""People as experts of a run: rollouts are sent to them, and their late answers become targets.

    RunConfig(..., participants=(PeopleConfig(select=Failed(), per_round=40, round_steps=10),))

No step waits for people. Each step sends the selected rollouts to the correction queue, queries the
people's expert about them (which promises to answer later), and adds the answers that have arrived.
A correction labels fixed states, so it does not expire with the policy: all corrections of all
rounds are kept, and each step draws some of them again, as DAgger aggregates (arXiv 1011.0686).
They train by the local term only.

Each use is a separate rollout in the records, in a group named after the original one, since a
rollout is consumed at most once. A resumed run reads all corrections from the gateway again, so
they are not part of the checkpoint.

Files: `people_selection.py` chooses, `people_labels.py` makes rollouts and targets, this one keeps
the set.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import torch
from pydantic import JsonValue

from preceptor_clients.contract.corrections import (
    EditRules,
    NewItem,
    NewItems,
    Result,
    Results,
    Round,
    RoundSettings,
    TakenItems,
)
from preceptor_clients.contract.schemas import PrefixQuery, PrefixSubmission
from preceptor_clients.http.gateway import GatewayClient
from preceptor_clients.targets.edits import spelled
from preceptor_clients.targets.spelling import TokenizerSpelling
from preceptor_trainer.collect.labelling import Labelled, Labeller
from preceptor_trainer.collect.participant import Participant, RunContext, StepContext
from preceptor_trainer.collect.people.labels import (
    Answered,
    base_query,
    corrected_attempt,
    forced_prefix,
    labelled_by_people,
    prompt_ids,
    repeated,
    rolled_on,
    takeover_query,
)
from preceptor_trainer.collect.people.selection import Failed, Selection
from preceptor_trainer.collect.rollouts import Attempt, Rollout
from preceptor_trainer.kit.seeding import generator

_PAGE: Final = 1000
_ASK_S: Final = 10.0


@dataclass(frozen=True, kw_only=True)
class PeopleConfig:
    """How a run works with people."""

    select: Selection = field(default_factory=Failed)
    """Selects the rollouts for people."""
    expert: str = "people"
    """The people's expert, by name at the gateway."""
    round_steps: int = 10
    """Steps per round of corrections."""
    per_round: int = 50
    """Most items of one round."""
    double_share: float = 0.1
    """Share of items that two people correct independently."""
    guidelines: str = ""
    """Instructions shown with each item."""
    rejoin_tokens: int = 3
    """Consecutive equal tokens after which correction and response count as joined again."""
    per_step: int = 16
    """Corrected sequences in one step, drawn from all corrections."""
    labels: bool = True
    """Token targets at the departures, on the student's own sequence. With `takeover` only for
    sequences with labels that the take-over does not repeat in the same state."""
    takeover: bool = True
    """The corrected text as a second sequence with targets at the person's tokens."""
    feedback: bool = False
    """The corrected text in the experts' view: dense targets on the student's own sequence."""
    forced: int = 0
    """Rollouts in one step that begin with a correction and are continued by the student. Its
    tokens after the change are judged and labelled like any others."""
    weight: float = 1.0
    """Weight of a person's label relative to a position of the other targets."""
    accepted_weight: float = 0.0
    """Weight of an unchanged token, where the people's expert labels unchanged tokens."""

    def __post_init__(self) -> None:
        for name in ("round_steps", "per_round", "rejoin_tokens", "per_step"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: must be at least 1, not {getattr(self, name)}")
        if self.forced < 0:
            raise ValueError(f"forced: {self.forced} is below 0")
        if not self.weight > 0 or not 0 <= self.accepted_weight <= 1:
            raise ValueError(
                f"weight: {self.weight} must be positive, accepted_weight "
                f"{self.accepted_weight} in [0, 1]"
            )
        if not (self.labels or self.takeover or self.feedback):
            raise ValueError("labels: at least one of labels, takeover and feedback must be on")

    @property
    def adds_rollouts(self) -> bool:
        """True: corrected rollouts are from earlier steps and in no group of this one."""
        return True

    def join(self, run: RunContext) -> People:
        """The people of one run."""
        return People(
            config=self,
            gateway=run.gateway,
            labeller=run.labeller,
            run=run.name,
            seed=run.seed,
            spelling=TokenizerSpelling.of(run.policy.tokenizer),
            vocab_fingerprint=run.policy.vocab_fingerprint,
        )


@dataclass(kw_only=True)
class People(Participant):
    """One run's corrections."""

    config: PeopleConfig
    gateway: GatewayClient
    labeller: Labeller
    run: str
    seed: int
    spelling: TokenizerSpelling
    vocab_fingerprint: str
    results_cursor: int = 0
    arrivals_cursor: int = 0
    corrections: dict[str, Result] = field(default_factory=dict[str, Result])
    """The current result, by rollout."""
    answered: dict[str, Answered] = field(default_factory=dict[str, Answered])
    """Labels on the student's own sequences, by rollout."""
    taken_over: dict[str, Answered] = field(default_factory=dict[str, Answered])
    """Labels on the corrected texts, by rollout."""
    _asked: set[str] = field(default_factory=set[str])
    _at_once: dict[str, str] = field(default_factory=dict[str, str])
    """Tickets that were answered on submission, by rollout; they are not among the arrivals."""
    _rounds: set[str] = field(default_factory=set[str])
    _counted: dict[int, dict[str, float]] = field(default_factory=dict[int, dict[str, float]])
    """Per step, because the next step may be collected while this one trains."""

    async def rollouts(self, at: StepContext) -> list[Rollout]:
        """Rollouts whose prefix is a correction up to and with its change; the rest is sampled.

        They are sent to feedback sources and experts like the others.
        """
        edited = sorted(r for r, c in self.corrections.items() if c.text is not None)
        if not edited or not self.config.forced:
            return []
        draw = generator(self.seed, "people-forced", at.step)
        chosen = torch.randint(len(edited), (self.config.forced,), generator=draw)
        corrections = [self.corrections[edited[int(n)]] for n in chosen]
        generations = await at.student.continuations(
            [prompt_ids(c) for c in corrections],
            [forced_prefix(c, self.spelling) for c in corrections],
            params=at.params,
            generator=draw,
        )
        return [
            rolled_on(
                correction,
                generation,
                spelled(self.spelling, generation.response_ids),
                f"{at.prefix}-forced-{n}",
                n,
                step=at.step,
                weights=at.student.version,
            )
            for n, (correction, generation) in enumerate(zip(corrections, generations, strict=True))
        ]

    async def labelled(self, at: StepContext, labelled: Sequence[Labelled]) -> list[Labelled]:
        """Sends some of `labelled` to people; returns the corrected rows to train on."""
        sent = await self._send(at.step, labelled)
        await self._join()
        drawn = await self._draw(at.step, at.prefix, at.weights)
        self._counted[at.step] = {
            "corrections/sent": float(sent),
            "corrections/standing": float(len(self.corrections)),
            "corrections/trained": float(len(drawn)),
        }
        return drawn

    def metrics(self, step: int) -> dict[str, float]:
        """Items sent in this step, current corrections, and corrected sequences in the step."""
        return self._counted.pop(step, {})

    @property
    def answered_at_once(self) -> frozenset[str]:
        """Rollouts whose query was answered on submission; the next step adds the answer."""
        return frozenset(self._at_once)

    # ------------------------------------------------------------ out

    async def _send(self, step: int, labelled: Sequence[Labelled]) -> int:
        """Sends selected rollouts; returns the number of new items of the round."""
        wishes = self.config.select(labelled, generator(self.seed, "people", step))
        chosen = [
            (row, wish) for row, wish in zip(labelled, wishes, strict=True) if wish is not None
        ]
        if not chosen:
            return 0
        chosen.sort(key=lambda pair: -pair[1].priority)
        round_name = f"{self.run}-{step // self.config.round_steps}"
        await self._open_round(round_name)
        items = [
            _item(row, wish.priority, wish.reason, self.run, self.vocab_fingerprint)
            for row, wish in chosen
        ]
        taken = await self.gateway.call(
            "POST",
            "/v1/corrections/items",
            body=NewItems(round=round_name, items=tuple(items)),
            reply=TakenItems,
        )
        rows = [
            row for (row, _), place in zip(chosen, taken.items, strict=True) if place.id is not None
        ]
        await self._ask([base_query(row, self.vocab_fingerprint) for row in rows], how="chosen")
        self._asked.update(row.attempt.rollout.rollout_id for row in rows)
        return sum(place.state == "new" for place in taken.items)

    async def _open_round(self, name: str) -> None:
        if name in self._rounds:
            return
        settings = RoundSettings(
            budget=self.config.per_round,
            double_share=self.config.double_share,
            guidelines=self.config.guidelines,
            edits=EditRules(rejoin_tokens=self.config.rejoin_tokens),
        )
        # An existing round is kept: a restarted run must not undo later settings by people.
        path, params = f"/v1/corrections/rounds/{name}", {"keep": "true"}
        await self.gateway.call("PUT", path, params=params, body=settings, reply=Round)
        self._rounds.add(name)

    async def _ask(self, queries: Sequence[PrefixQuery], *, how: str) -> None:
        """Submits queries to the people's expert, with tickets that have no short deadline.

        If another run has made the same query, its answer exists already.
        """
        submissions = [
            PrefixSubmission(idempotency_key=f"{self.run}/{query.rollout_id}/{how}", query=query)
            for query in queries
        ]
        if not submissions:
            return
        outcomes = await self.gateway.submit_logprobs(self.config.expert, submissions, run=self.run)
        for query, outcome in zip(queries, outcomes, strict=True):
            ticket = outcome.ticket
            if query.rollout_id and ticket is not None and ticket.answer_id is not None:
                self._at_once[query.rollout_id] = ticket.id

    # ------------------------------------------------------------ in

    async def _join(self) -> None:
        # Arrivals first: the result of an answer that is seen here is among those read next.
        arrived: dict[str, str] = {}
        while True:
            page = await self.gateway.arrivals(self.run, self.arrivals_cursor, _PAGE)
            self.arrivals_cursor = page.cursor
            arrived |= {a.rollout_id: a.ticket for a in page.arrivals if a.rollout_id is not None}
            if len(page.arrivals) < _PAGE:
                break
        for result in await self._new_results():
            self._count(result)
        await self._ask_about(r for r in self.corrections if r not in arrived)
        answered = self._at_once | arrived
        await self._collect({r: t for r, t in answered.items() if r in self.corrections})
        self._at_once = {r: t for r, t in self._at_once.items() if r not in self.corrections}
        if self.config.takeover:
            await self._take_over()

    async def _ask_about(self, rollout_ids: Iterable[str]) -> None:
        """Queries corrections without a query so far: those of manually added rollouts."""
        new = [r for r in rollout_ids if r not in self._asked and r not in self.answered]
        queries = [
            _query(result := self.corrections[r], result.response_ids or (), self.vocab_fingerprint)
            for r in new
        ]
        await self._ask(queries, how="by-hand")
        self._asked.update(new)

    async def _new_results(self) -> list[Result]:
        found: list[Result] = []
        while True:
            page = await self.gateway.call(
                "GET",
                "/v1/corrections/results",
                params={"run": self.run, "after": self.results_cursor, "limit": _PAGE},
                reply=Results,
            )
            self.results_cursor = page.cursor
            found += page.results
            if len(page.results) < _PAGE:
                return found

    def _count(self, result: Result) -> None:
        """Stores the changed result of a rollout and drops its earlier labels."""
        if result.rollout_id is None or result.response_ids is None:
            return
        self.answered.pop(result.rollout_id, None)
        self.taken_over.pop(result.rollout_id, None)
        self.corrections.pop(result.rollout_id, None)
        if result.kind != "retired" and result.decision in ("edit", "accept"):
            self.corrections[result.rollout_id] = result

    async def _collect(self, tickets: dict[str, str]) -> None:
        if not tickets:
            return
        outcomes = await self.gateway.collect_logprobs(list(tickets.values()))
        for rollout_id, outcome in zip(tickets, outcomes, strict=True):
            result = self.corrections[rollout_id]
            query = _query(result, result.response_ids or (), self.vocab_fingerprint)
            answered = Answered.of(outcome, query)
            if answered is not None and answered.answer.mask_P.any():
                self.answered[rollout_id] = answered

    async def _take_over(self) -> None:
        """Queries the corrected texts, which the people's expert answers immediately."""
        new = [
            (rollout_id, query)
            for rollout_id, result in self.corrections.items()
            if rollout_id not in self.taken_over
            and (query := takeover_query(result, self.spelling, self.vocab_fingerprint)) is not None
        ]
        if not new:
            return
        outcomes = await self.gateway.logprobs(
            self.config.expert,
            [
                PrefixSubmission(idempotency_key=f"{self.run}/{query.rollout_id}", query=query)
                for _, query in new
            ],
            run=self.run,
            timeout_s=_ASK_S,
        )
        for (rollout_id, query), outcome in zip(new, outcomes, strict=True):
            answered = Answered.of(outcome, query)
            if answered is not None and answered.answer.mask_P.any():
                self.taken_over[rollout_id] = answered

    # ------------------------------------------------------------ drawn

    async def _draw(self, step: int, prefix: str, weights: str) -> list[Labelled]:
        pool: list[tuple[str, str]] = []
        if self.config.labels:
            pool += [("labels", r) for r in sorted(self.answered) if not self._repeated(r)]
        if self.config.takeover:
            pool += [("takeover", r) for r in sorted(self.taken_over)]
        if self.config.feedback:
            edited = (r for r, c in self.corrections.items() if c.text is not None)
            pool += [("feedback", r) for r in sorted(edited)]
        if not pool:
            return []
        drawn = torch.randperm(len(pool), generator=generator(self.seed, "people-draw", step))
        rows: list[Labelled] = []
        asked: list[Attempt] = []
        for n, place in enumerate(drawn[: self.config.per_step]):
            kind, rollout_id = pool[int(place)]
            result = self.corrections[rollout_id]
            name = f"{prefix}-people-{n}"
            if kind == "feedback":
                asked.append(corrected_attempt(result, name, n, step=step, weights=weights))
                continue
            answered = (self.answered if kind == "labels" else self.taken_over)[rollout_id]
            rows.append(
                labelled_by_people(
                    result,
                    answered,
                    name,
                    n,
                    step=step,
                    weights=weights,
                    weight=self.config.weight,
                    accepted_weight=self.config.accepted_weight,
                )
            )
        if asked:
            rows += await self.labeller.targets(asked)
        return rows

    def _repeated(self, rollout_id: str) -> bool:
        """Whether the take-over already trains its labels, and is drawn as often."""
        takeover = self.taken_over.get(rollout_id)
        return takeover is not None and repeated(self.answered[rollout_id], takeover)


def _item(row: Labelled, priority: float, reason: str, run: str, vocab_fingerprint: str) -> NewItem:
    rollout = row.attempt.rollout
    details: dict[str, JsonValue] = {
        "weights": rollout.weights,
        "score": row.attempt.score,
        "payload_sha256": rollout.payload_sha256,
    }
    return NewItem(
        prompt=rollout.prompt,
        response_text=rollout.response_text,
        response_ids=np.asarray(rollout.response_ids, np.int32),
        finish_reason=rollout.finish_reason,
        vocab_fingerprint=vocab_fingerprint,
        feedback=row.attempt.items,
        judged_by_nobody=not row.attempt.task.sources and not row.attempt.items,
        rollout_id=rollout.rollout_id,
        problem_id=rollout.problem.id,
        run=run,
        step=rollout.step,
        reason=reason,
        priority=priority,
        details=details,
    )


def _query(result: Result, ids: Sequence[int], vocab_fingerprint: str) -> PrefixQuery:
    return PrefixQuery(
        prompt=result.prompt,
        response_ids=np.asarray(ids, np.int32),
        vocab_fingerprint=vocab_fingerprint,
        rollout_id=result.rollout_id,
    )
