"""Settled items as trainers, tools and the people's expert read them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from preceptor_clients.contract.corrections import (
    Agreement,
    Decision,
    Due,
    EditRules,
    ExportLine,
    ExportPage,
    Imported,
    ImportLines,
    ItemState,
    NewItem,
    Result,
    Results,
    RoundSettings,
    carried_rules,
    prompt_sha256,
    text_sha256,
)
from preceptor_clients.contract.errors import Conflict, NotFound
from preceptor_clients.contract.schemas import FeedbackItem, PrefixQuery, Prompt
from preceptor_services.corrections.agreement import Double, Opinion, agreement
from preceptor_services.corrections.intake import Intake, check_owned, question_row
from preceptor_services.corrections.settle import final_text, overrule
from preceptor_services.corrections.views import review_of, version_of
from preceptor_services.kit.clock import Clock
from preceptor_services.questions.question import unpack_query
from preceptor_services.store.corrections import items as items
from preceptor_services.store.corrections import people as people
from preceptor_services.store.corrections import results as results
from preceptor_services.store.corrections import versions as versions
from preceptor_services.store.corrections.people import new_row
from preceptor_services.store.corrections.results import DueRow
from preceptor_services.store.corrections.versions import ReviewRow, VersionRow
from preceptor_services.store.database import Connection, Database


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """Reads results, and records which answers were made from them."""

    database: Database
    clock: Clock
    intake: Intake

    async def after(
        self, cursor: int, limit: int, *, run: str | None, round_name: str | None
    ) -> Results:
        """Changes of authoritative versions, oldest first."""
        async with self.database.read() as conn:
            rows = await results.after(
                conn, cursor=cursor, limit=limit, run=run, round_name=round_name
            )
            documents = await items.documents(conn, list({row.item_id for row in rows}))
            edits = await _edit_rules(conn, [row.item_id for row in rows])
        return Results(
            cursor=rows[-1].cursor if rows else cursor,
            results=tuple(
                Result(
                    cursor=row.cursor,
                    kind=cast("Any", row.kind),
                    item=row.item_id,
                    round=row.round,
                    version=row.version_id,
                    decision=cast("Decision | None", row.decision),
                    text=row.text,
                    comment=row.comment,
                    person=row.person,
                    reviewer=row.reviewer,
                    run=row.run,
                    rollout_id=row.rollout_id,
                    problem_id=row.problem_id,
                    step=row.step,
                    prompt=Prompt.model_validate(documents[row.item_id]["prompt"]),
                    response_ids=documents[row.item_id].get("response_ids"),
                    response_text=documents[row.item_id]["response_text"],
                    details=documents[row.item_id].get("details", {}),
                    edits=edits[row.item_id],
                )
                for row in rows
            ),
        )

    async def agreement(self, round_name: str) -> Agreement:
        """Agreement of the people of a round."""
        async with self.database.read() as conn:
            if not await items.rounds(conn, [round_name]):
                raise NotFound(f"no round {round_name!r}", field="round")
            found = await versions.doubles(conn, round_name)
            documents = await items.documents(conn, list(found))
            upheld = await versions.upheld(conn, round_name)
        doubles = [_double(documents[i], rows) for i, rows in found.items() if len(rows) > 1]
        return agreement(doubles, upheld)

    # ------------------------------------------------------------ the expert's side

    async def due(self, limit: int, services: Collection[str] | None = None) -> tuple[Due, ...]:
        """Answers that can be given now, to questions asked of `services`; None for all."""
        async with self.database.read() as conn:
            rows = await results.due(conn, limit, services)
            edits = await _edit_rules(conn, [row.item_id for row in rows])
        return tuple(_due(row, edits[row.item_id]) for row in rows)

    async def lookup(self, prompt: Prompt, text: str) -> tuple[Due, ...]:
        """Authoritative corrections with this prompt and text; ignore their `answer_key`."""
        async with self.database.read() as conn:
            rows = await versions.authoritative_with_text(
                conn, prompt_sha256(prompt), text_sha256(text)
            )
            documents = await items.documents(conn, [row.item_id for row in rows])
            edits = await _edit_rules(conn, [row.item_id for row in rows])
        nowhere = "0" * 64
        return tuple(
            Due(
                answer_key=nowhere,
                item=row.item_id,
                version=row.id,
                decision=cast("Decision", row.decision),
                text=row.text,
                prompt=Prompt.model_validate(documents[row.item_id]["prompt"]),
                base_ids=tuple(documents[row.item_id].get("response_ids") or ()),
                edits=edits[row.item_id],
            )
            for row in rows
        )

    async def give(
        self, made_of: Mapping[str, str | None], services: Collection[str] | None = None
    ) -> None:
        """Records answers that were given; a question not asked before belongs to a take-over.

        Raises:
            Forbidden: one was asked of an expert that is not among `services`.
        """
        now = self.clock.now()
        async with self.database.write() as conn:
            await check_owned(conn, made_of, services)
            rows: list[dict[str, Any]] = []
            for answer_key, version_id in made_of.items():
                version = None if version_id is None else await versions.find(conn, version_id)
                if version is not None:
                    rows.append(question_row(answer_key, version.item_id, now, takeover=True))
            await results.ask(conn, rows)
            await results.give(conn, dict(made_of), now=now)

    # ------------------------------------------------------------ JSONL

    async def export(self, round_name: str | None, after: int, limit: int) -> ExportPage:
        """Items with their history, in the order in which they came."""
        async with self.database.read() as conn:
            rows = await items.page(
                conn,
                round_name=round_name,
                state=None,
                run=None,
                worked_on_by=None,
                after=after,
                limit=limit,
            )
            ids = [row.id for row in rows]
            documents = await items.documents(conn, ids)
            every = await versions.of_items(conn, ids)
            reviews = await versions.reviews(conn, ids)
            edits = await _edit_rules(conn, ids)
        lines = tuple(
            ExportLine(
                id=row.id,
                item=NewItem.model_validate(documents[row.id]),
                round=row.round,
                state=cast("ItemState", row.state),
                created_at=row.created_at,
                versions=tuple(version_of(v, row.authoritative) for v in every[row.id]),
                reviews=tuple(review_of(r) for r in reviews[row.id]),
                edits=edits[row.id],
            )
            for row in rows
        )
        return ExportPage(lines=lines, after=rows[-1].serial if len(rows) == limit else None)

    async def take(self, sent: ImportLines, by: str) -> Imported:
        """Adds missing items and versions; authoritative versions stay authoritative.

        A new round gets the rules for edits that the lines carry.

        Raises:
            Conflict: the lines carry several rules, or other ones than the round has.
        """
        new = [line.item for line in sent.lines]
        carried = carried_rules(sent.lines)
        async with self.database.read() as conn:
            found = await items.rounds(conn, [sent.round])
        if not found:
            settings = RoundSettings(budget=None, edits=carried or EditRules())
            await self.intake.put_round(sent.round, settings)
        elif carried is not None:
            _check_same_rules(sent.round, RoundSettings.model_validate(found[0].settings), carried)
        taken = await self.intake.add(sent.round, new)
        num_versions = 0
        for line, place in zip(sent.lines, taken, strict=True):
            if place.id is not None:
                num_versions += await self._take_line(line, place.id, by)
        return Imported(items=sum(place.state == "new" for place in taken), versions=num_versions)

    async def _take_line(self, line: ExportLine, item_id: str, by: str) -> int:
        now = self.clock.now()
        rows = [
            VersionRow(
                id=v.id if v.item == item_id else f"{v.id}-{item_id[3:11]}",
                item_id=item_id,
                claim_id=None,
                person=v.person,
                decision=v.decision,
                text=v.text,
                text_sha256=None if v.text is None else text_sha256(v.text),
                comment=v.comment,
                created_at=v.created_at,
                retired_at=now if v.retired else None,
            )
            for v in line.versions
        ]
        async with self.database.write() as conn:
            item = await items.lock(conn, item_id)
            assert item is not None, "the item was added above"
            known = await versions.known_ids(conn, [row.id for row in rows])
            fresh = [row for row in rows if row.id not in known]
            names = sorted({row.person for row in fresh})
            await people.add_unknown(conn, [new_row(n, "annotator", None, now) for n in names])
            await versions.add_unknown(conn, fresh)
            for row, sent in zip(rows, line.versions, strict=True):
                if sent.authoritative and row in fresh and item.state != "done":
                    review = ReviewRow(
                        f"cr-{row.id}", item_id, by, "approve", row.id, "imported", now
                    )
                    await versions.add_review(conn, review)
                    await overrule(conn, item, row, reviewer=by, now=now)
        return len(fresh)


async def provenance(conn: Any, answer_id: str) -> FeedbackItem | None:
    """Person, edit and reviewer behind one answer of the people's expert."""
    version_id = await results.behind_answer(conn, answer_id)
    version = None if version_id is None else await versions.find(conn, version_id)
    if version is None:
        return None
    reviews = (await versions.reviews(conn, [version.item_id]))[version.item_id]
    approved = [r.reviewer for r in reviews if r.version_id == version.id]
    return correction_item(version, approved[-1] if approved else None)


def correction_item(version: VersionRow, reviewer: str | None) -> FeedbackItem:
    """A correction as an item of feedback for experts, with the people behind it."""
    text = version.text if version.text is not None else version.comment
    return FeedbackItem(
        id=f"correction-{version.id}",
        kind="correction" if version.decision != "comment" else "comment",
        text=text,
        source="people",
        version=version.id,
        details={
            "item": version.item_id,
            "decision": version.decision,
            "person": version.person,
            "reviewer": reviewer,
            "retired": version.retired_at is not None,
        },
    )


def _check_same_rules(name: str, settings: RoundSettings, carried: EditRules) -> None:
    if settings.edits != carried:
        raise Conflict(
            f"the export's edits are compiled with {carried}, those of the round {name} with "
            f"{settings.edits}; import into a new round, which gets the export's rules",
            field="round",
        )


def _double(document: Mapping[str, Any], rows: Sequence[VersionRow]) -> Double:
    response: str = document["response_text"]
    return Double(
        response,
        tuple(Opinion(row.decision, final_text(row, dict(document)) or response) for row in rows),
    )


async def _edit_rules(conn: Connection, item_ids: Sequence[str]) -> dict[str, EditRules]:
    """By item: those of its round."""
    settings = await items.settings_of(conn, sorted(set(item_ids)))
    return {i: RoundSettings.model_validate(row).edits for i, row in settings.items()}


def _due(row: DueRow, edits: EditRules) -> Due:
    query = unpack_query("logprobs", row.frame)
    assert isinstance(query, PrefixQuery), "the people's expert is asked nothing else"
    return Due(
        answer_key=row.answer_key,
        item=row.item_id,
        version=row.version_id,
        decision=cast("Decision | None", row.decision),
        text=row.text,
        prompt=query.prompt,
        base_ids=tuple(int(i) for i in query.response_ids),
        positions=query.positions,
        expert_version=row.expert_version,
        edits=edits,
    )
