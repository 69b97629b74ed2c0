"""Intake of items: from runs, from outside any run, and by hand; rounds and their budgets."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from preceptor_clients.contract.corrections import (
    Asked,
    NewItem,
    Round,
    RoundCounts,
    RoundSettings,
    TakenItem,
)
from preceptor_clients.contract.errors import Conflict, Forbidden, NotFound
from preceptor_clients.contract.schemas import Prompt
from preceptor_services.kit.array_blobs import ArrayBlobs
from preceptor_services.kit.clock import Clock
from preceptor_services.questions.withdrawn import items_that_count
from preceptor_services.store.corrections import items as items
from preceptor_services.store.corrections import results as results
from preceptor_services.store.corrections.results import RolloutRow
from preceptor_services.store.database import Connection, Database
from preceptor_services.store.provenance import feedback, weights
from preceptor_services.store.provenance.feedback import ItemRow
from preceptor_services.store.questions import answers

OUTSIDE: Final = "outside"
"""The round of questions that no run asked."""
_EXCERPT: Final = 160


@dataclass(frozen=True, kw_only=True)
class Intake:
    database: Database
    clock: Clock
    array_blobs: ArrayBlobs

    async def put_round(self, name: str, settings: RoundSettings, *, keep: bool = False) -> None:
        """Creates a round, or changes its rules; with `keep`, an existing round keeps its rules.

        Raises:
            Conflict: the rules for edits would change while the round has items.
        """
        document = settings.model_dump(mode="json")
        async with self.database.write() as conn:
            await _check_edit_rules(conn, name, settings)
            await items.add_round(conn, name, document, self.clock.now())
            if not keep:
                await items.change_round(conn, name, document)

    async def rounds(self, names: Sequence[str] | None = None) -> tuple[Round, ...]:
        """Rounds with their counts."""
        async with self.database.read() as conn:
            rows = await items.rounds(conn, names)
            states = await items.count_by_state(conn)
            claimed = await items.count_active_claims(conn, self.clock.now())
        return tuple(
            Round(
                name=row.name,
                settings=RoundSettings.model_validate(row.settings),
                created_at=row.created_at,
                counts=_counts(row.name, states, claimed),
            )
            for row in rows
        )

    async def add(self, round_name: str, new: Sequence[NewItem]) -> list[TakenItem]:
        """Takes items in order until the budget is spent; known items cost nothing."""
        async with self.database.write() as conn:
            return await self._add(conn, round_name, new)

    async def add_rollouts(
        self, round_name: str, rollout_ids: Sequence[str], priority: float
    ) -> list[TakenItem]:
        """Recorded rollouts of runs, chosen by hand.

        Raises:
            NotFound: one of them is not recorded.
        """
        async with self.database.read() as conn:
            rows = await results.rollouts(conn, rollout_ids)
            versions = {row.weights for row in rows.values()}
            vocabularies = {version: await _vocabulary(conn, version) for version in versions}
            judgements = await feedback.of_rollouts(conn, rollout_ids)
        for rollout_id in rollout_ids:
            if rollout_id not in rows:
                raise NotFound(f"no rollout {rollout_id!r}", field="rollout_ids")
        new = [
            await self._recorded(rows[i], vocabularies, judgements.get(i), priority)
            for i in rollout_ids
        ]
        return await self.add(round_name, new)

    async def _recorded(
        self,
        row: RolloutRow,
        vocabularies: Mapping[str, str | None],
        judgement: Sequence[ItemRow] | None,
        priority: float,
    ) -> NewItem:
        arrays: dict[str, Any] = (await self.array_blobs.read(row.pack_sha256))[row.id]
        vocabulary = vocabularies[row.weights]
        return NewItem(
            prompt=Prompt.model_validate(arrays["prompt"]),
            response_text=arrays["response_text"],
            # Ids are of use only together with the policy's vocabulary.
            response_ids=None if vocabulary is None else arrays["response_ids"],
            vocab_fingerprint=vocabulary,
            finish_reason="stop" if row.finish_reason == "stop" else "length",
            feedback=tuple(items_that_count(judgement or ())),
            judged_by_nobody=judgement is None,
            rollout_id=row.id,
            problem_id=row.problem_id,
            run=row.run,
            step=row.step,
            priority=priority,
        )

    async def ask(self, asked: Sequence[Asked], services: Collection[str] | None = None) -> None:
        """Records questions to the people's expert; each refers to its item, created if missing.

        Raises:
            Forbidden: one was asked of an expert that is not among `services`.
        """
        now = self.clock.now()
        hashes = {q.answer_key: q.item.content_sha256() for q in asked}
        async with self.database.write() as conn:
            await check_owned(conn, hashes, services)
            known = await items.known(conn, list(hashes.values()))
            runs = await results.runs_of(conn, list(hashes))
            rows: list[dict[str, Any]] = []
            for question in asked:
                item_id = known.get(hashes[question.answer_key])
                if item_id is None:
                    run = runs.get(question.answer_key)
                    item = question.item.model_copy(update={"run": run, "reason": "asked"})
                    [taken] = await self._add(conn, run or OUTSIDE, [item], unbounded=True)
                    item_id = taken.id
                    assert item_id is not None, "no budget was applied"
                    known[hashes[question.answer_key]] = item_id
                rows.append(question_row(question.answer_key, item_id, now))
            await results.ask(conn, rows)

    async def _add(
        self,
        conn: Connection,
        round_name: str,
        new: Sequence[NewItem],
        *,
        unbounded: bool = False,
    ) -> list[TakenItem]:
        now = self.clock.now()
        defaults = RoundSettings().model_dump(mode="json")
        await items.add_round(conn, round_name, defaults, now)
        row = await items.lock_round(conn, round_name)
        assert row is not None, "the round was added above"
        settings = RoundSettings.model_validate(row.settings)
        hashes = [item.content_sha256() for item in new]
        known = await items.known(conn, hashes, round_name)
        room = None
        if settings.budget is not None and not unbounded:
            room = settings.budget - await items.count_items(conn, round_name)
        taken: list[TakenItem] = []
        rows: list[dict[str, Any]] = []
        for item, content in zip(new, hashes, strict=True):
            if content in known:
                taken.append(TakenItem(id=known[content], state="known"))
            elif room is not None and len(rows) >= room:
                taken.append(TakenItem(state="over_budget"))
            else:
                rows.append(_item_row(round_name, settings, item, content, now))
                known[content] = rows[-1]["id"]
                taken.append(TakenItem(id=known[content], state="new"))
        await items.add(conn, rows)
        return taken


async def check_owned(
    conn: Connection, answer_keys: Iterable[str], services: Collection[str] | None
) -> None:
    """Refuses questions that were asked of an expert outside `services`; None allows all.

    Raises:
        Forbidden: names the first of them.
    """
    if services is None:
        return
    for key, state in (await answers.find(conn, answer_keys)).items():
        if state.service not in services:
            raise Forbidden(f"{key} was asked of another expert", field="answer_key")


async def _vocabulary(conn: Connection, version: str) -> str | None:
    """Of a version, or of its policy's last one: a version without files is not registered."""
    manifest = await weights.find(conn, version)
    if manifest is None:
        last = await weights.latest(conn, version.split("/")[0])
        manifest = None if last is None else await weights.find(conn, last)
    return None if manifest is None else manifest["vocab_fingerprint"]


def question_row(
    answer_key: str, item_id: str, now: float, *, takeover: bool = False
) -> dict[str, Any]:
    """The row of a question without an answer."""
    return {
        "answer_key": answer_key,
        "item_id": item_id,
        "asked_at": now,
        "given_at": None,
        "version_id": None,
        "takeover": takeover,
        "original_key": None,
    }


def _item_row(
    round_name: str, settings: RoundSettings, item: NewItem, content: str, now: float
) -> dict[str, Any]:
    digest = hashlib.sha256(f"{round_name}\0{content}".encode()).digest()
    return {
        "id": f"ci-{digest.hex()[:24]}",
        "round": round_name,
        "content_sha256": content,
        "prompt_sha256": item.prompt_sha256(),
        "state": "open",
        # Drawn by the item's own hash, so that sending it again draws the same.
        "wanted": 2 if _uniform(digest) < settings.double_share else 1,
        "num_live": 0,
        "priority": item.priority,
        "reason": item.reason,
        "run": item.run,
        "rollout_id": item.rollout_id,
        "problem_id": item.problem_id,
        "step": item.step,
        "authoritative": None,
        "excerpt": item.response_text[:_EXCERPT],
        "document": item.model_dump(mode="json", exclude_none=True),
        "created_at": now,
        "updated_at": now,
    }


def _uniform(digest: bytes) -> float:
    return int.from_bytes(digest[-8:]) / 2**64


def response_ids(document: Mapping[str, Any]) -> np.ndarray | None:
    """`[T]` the ids of an item's response, where they are known."""
    ids = document.get("response_ids")
    return None if ids is None else np.asarray(ids, np.int32)


async def _check_edit_rules(conn: Connection, name: str, settings: RoundSettings) -> None:
    row = await items.lock_round(conn, name)
    if row is None or not await items.count_items(conn, name):
        return
    standing = RoundSettings.model_validate(row.settings).edits
    if standing != settings.edits:
        raise Conflict(
            f"the round has items whose edits are compiled with {standing}; make another round",
            field="edits",
        )


def _counts(
    name: str, states: Mapping[tuple[str, str], int], claimed: Mapping[str, int]
) -> RoundCounts:
    by_state = {s: states.get((name, s), 0) for s in ("open", "review", "done", "ended")}
    return RoundCounts(total=sum(by_state.values()), claimed=claimed.get(name, 0), **by_state)
