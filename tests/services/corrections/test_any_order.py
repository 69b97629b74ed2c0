"""H2: whatever people do in whatever order, what is shown is what the rows say."""

from __future__ import annotations

import asyncio
import itertools
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from preceptor_clients.contract.corrections import Decide, NewItem, RoundSettings, Submission
from preceptor_clients.contract.errors import Conflict
from preceptor_clients.contract.schemas import Message, Prompt
from preceptor_services.corrections.intake import Intake
from preceptor_services.corrections.results import Outcome
from preceptor_services.corrections.retire import Retiring
from preceptor_services.corrections.review import Reviewing
from preceptor_services.corrections.work import Work
from preceptor_services.kit.array_blobs import ArrayBlobs
from preceptor_services.kit.blobs import LocalBlobs
from preceptor_services.store.corrections import claims as claims
from preceptor_services.store.corrections import items as items
from preceptor_services.store.corrections import people as people
from preceptor_services.store.corrections import versions as versions
from preceptor_services.store.database import Database

from ..databases import sqlite_with_tables

PEOPLE = ("ann", "bob", "cyd")
LEASE_S = 30.0


class StillClock:
    at = 1000.0

    def now(self) -> float:
        return self.at


class Desk:
    """The queue's parts over one SQLite file."""

    def __init__(self, folder: Path) -> None:
        self.clock = StillClock()
        self.database = Database.open(sqlite_with_tables(folder / "store.db"))
        array_blobs = ArrayBlobs(LocalBlobs(folder / "blobs"))
        shared: dict[str, Any] = {"database": self.database, "clock": self.clock}
        self.queue = Work(**shared)
        self.reviewing = Reviewing(**shared)
        self.intake = Intake(**shared, array_blobs=array_blobs)
        self.retiring = Retiring(**shared, array_blobs=array_blobs)
        self.outcome = Outcome(**shared, intake=self.intake)

    async def open(self, double_share: float, review: Any) -> None:
        rules = RoundSettings(double_share=double_share, lease_s=LEASE_S, review=review)
        await self.intake.put_round("r", rules)
        async with self.database.write() as conn:
            for name in PEOPLE:
                await people.add(conn, people.new_row(name, "annotator", name, 0.0))
        await self.intake.add("r", [_new_item(n) for n in range(3)])


def _new_item(number: int) -> NewItem:
    message = Message(role="user", content=f"q{number}")
    return NewItem(prompt=Prompt(messages=(message,)), response_text=f"a{number}")


class AnyOrder(RuleBasedStateMachine):
    """People, time and reviewers in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.folder = tempfile.TemporaryDirectory()
        self.desk = Desk(Path(self.folder.name))
        self.held: list[tuple[str, str]] = []
        self.texts = itertools.count()

    def do(self, work: Any) -> Any:
        return self.loop.run_until_complete(work)

    def teardown(self) -> None:
        self.do(self.desk.database.aclose())
        self.loop.close()
        self.folder.cleanup()

    @initialize(
        double_share=st.sampled_from([0.0, 1.0]),
        review=st.sampled_from(["never", "disagreement", "always"]),
    )
    def begin(self, double_share: float, review: str) -> None:
        self.do(self.desk.open(double_share, review))

    @rule(person=st.sampled_from(PEOPLE))
    def claim(self, person: str) -> None:
        claim = self.do(self.desk.queue.claim(person))
        if claim is not None:
            self.held.append((person, claim.id))

    @precondition(lambda self: self.held)
    @rule(
        which=st.integers(0, 100),
        action=st.sampled_from(["renew", "release", "skip", "flag", "edit", "accept", "comment"]),
    )
    def act(self, which: int, action: str) -> None:
        person, claim_id = self.held[which % len(self.held)]
        queue = self.desk.queue
        try:
            if action == "renew":
                self.do(queue.renew(person, claim_id))
            elif action == "release":
                self.do(queue.release(person, claim_id))
            elif action == "skip":
                self.do(queue.skip(person, claim_id, "no"))
            elif action == "flag":
                self.do(queue.flag(person, claim_id, "odd"))
            else:
                text = f"t{next(self.texts) % 3}" if action == "edit" else None
                comment = "hm" if action == "comment" else None
                sent = Submission(decision=action, text=text, comment=comment)
                self.do(queue.submit(person, claim_id, sent))
        except Conflict:
            pass  # Refused, which is as it should be; the invariants say whether it was.

    @rule(seconds=st.sampled_from([1.0, LEASE_S / 2, LEASE_S + 1]))
    def time_passes(self, seconds: float) -> None:
        self.desk.clock.at += seconds

    @rule(which=st.integers(0, 2), verdict=st.sampled_from(["approve", "own", "reopen", "discard"]))
    def review(self, which: int, verdict: str) -> None:
        item_id = self.rows()[which].id
        decide: Decide | None
        if verdict == "approve":
            standing = self.do(self._versions(item_id))
            chosen = [v for v in standing if v.retired_at is None]
            decide = Decide(verdict="approve", version=chosen[-1].id) if chosen else None
        elif verdict == "own":
            submission = Submission(decision="edit", text="the reviewer's")
            decide = Decide(verdict="approve", submission=submission)
        else:
            decide = Decide(verdict=verdict)
        if decide is not None:
            self.do(self.desk.reviewing.decide("ann", item_id, decide))

    @rule(person=st.sampled_from(PEOPLE))
    def retire(self, person: str) -> None:
        self.do(self.desk.retiring.retire(person, "left"))

    # ------------------------------------------------------------ what must hold

    def rows(self) -> list[Any]:
        return self.do(self._rows())

    async def _rows(self) -> list[Any]:
        async with self.desk.database.read() as conn:
            return await items.page(
                conn,
                round_name="r",
                state=None,
                run=None,
                worked_on_by=None,
                after=0,
                limit=10,
            )

    async def _versions(self, item_id: str) -> list[Any]:
        async with self.desk.database.read() as conn:
            return (await versions.of_items(conn, [item_id]))[item_id]

    async def _history(self, item_id: str) -> list[Any]:
        async with self.desk.database.read() as conn:
            return await claims.of_item(conn, item_id)

    @invariant()
    def places_taken_are_those_of_the_claims(self) -> None:
        for row in self.rows():
            history = self.do(self._history(row.id))
            live = [c for c in history if c.state in ("active", "submitted")]
            assert row.num_live == len(live) <= row.wanted
            assert len({c.person for c in live}) == len(live)

    @invariant()
    def one_version_counts_in_a_done_item_and_none_elsewhere(self) -> None:
        for row in self.rows():
            assert (row.authoritative is not None) == (row.state == "done")
            known = {v.id: v for v in self.do(self._versions(row.id))}
            if row.authoritative is not None:
                assert known[row.authoritative].retired_at is None

    @invariant()
    def counts_shown_are_the_rows(self) -> None:
        rows = self.rows()
        if not rows:
            return
        [round_] = self.do(self.desk.intake.rounds(["r"]))
        counts, states = round_.counts, Counter(row.state for row in rows)
        shown = (counts.open, counts.review, counts.done, counts.ended)
        assert shown == tuple(states[s] for s in ("open", "review", "done", "ended"))
        assert counts.total == len(rows)

    @invariant()
    def what_trainers_were_told_is_what_counts(self) -> None:
        told: dict[str, str | None] = {}
        for result in self.do(self.desk.outcome.after(0, 1000, run=None, round_name=None)).results:
            told[result.item] = None if result.kind == "retired" else result.version
        assert {r.id: r.authoritative for r in self.rows() if r.authoritative} == {
            item: version for item, version in told.items() if version
        }


def test_what_is_shown_holds_in_any_order() -> None:
    run_state_machine_as_test(
        AnyOrder,
        settings=settings(
            max_examples=6,
            stateful_step_count=20,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
