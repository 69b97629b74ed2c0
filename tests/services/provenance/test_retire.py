"""Feedback items that an operator retires: what still uses them, and what does not."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from preceptor_clients.contract.errors import Conflict, Forbidden, Invalid, NotFound
from preceptor_clients.contract.operations import AuditPage
from preceptor_clients.contract.schemas import (
    FeedbackItem,
    FeedbackRecord,
    LineageRecord,
    Records,
    RunRecord,
)
from preceptor_clients.http.gateway import GatewayClient
from preceptor_services.corrections.intake import Intake
from preceptor_services.jobs.messages import ItemResult
from preceptor_services.provenance import lists

from ..databases import sqlite_with_tables
from ..world import World
from .test_listings import rollout_of

on_both_databases = pytest.mark.parametrize("sqlite_url", ["sqlite", "postgres"], indirect=True)


@pytest.fixture
def sqlite_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if getattr(request, "param", "sqlite") == "postgres":
        return request.getfixturevalue("postgres_with_tables")()
    return sqlite_with_tables(tmp_path / "gateway.db")


@pytest.fixture
async def judged(world: World) -> World:
    """Rollout `r-a` of a run, judged with 1 by the source."""
    await world.trainer.start_run(RunRecord(run="r", config={}, seed=1, versions={}))
    await world.trainer.start_lineage(LineageRecord(run="r", lineage="l0"))
    await world.trainer.record(Records(rollouts=(rollout_of(world, "r-a", 0),)))
    await _ask(world, "a")
    await _answer(world, [{"score": 1.0}])
    return world


async def _ask(world: World, key: str, text: str = "x") -> Any:
    submission = await world.feedback_submission(key, text)
    [outcome] = await world.trainer.submit_feedback("executor", [submission], run="r")
    return outcome


async def _answer(world: World, items: Sequence[dict[str, Any]]) -> None:
    claims = await world.claim(world.queue.take())
    for job in claims.jobs:
        results: list[ItemResult] = []
        for item in job.items:
            verdict = world.verdict(item.feedback)
            given = tuple(
                verdict.items[0].model_copy(update={"id": str(i), **fields})
                for i, fields in enumerate(items)
            )
            answer = verdict.model_copy(update={"items": given})
            results.append(ItemResult(answer_key=item.answer_key, feedback=answer))
        await world.report(job, results)


async def _row(world: World) -> Any:
    [row] = await world.trainer.rollouts("r")
    return row


async def _item(world: World) -> str:
    return (await _row(world)).feedback[0].id


def _admin(world: World) -> GatewayClient:
    return world.clients["admin"]


async def _record_own(world: World, name: str, source: str = "executor") -> None:
    item = FeedbackItem(id=name, kind="verdict", score=0.25, source=source, version="8")
    own = (FeedbackRecord(rollout_id="r-a", item=item),)
    await world.trainer.record(Records(feedback=own))


@on_both_databases
async def test_a_retired_judgement_is_in_no_reward_and_listed_with_the_reason(
    judged: World,
) -> None:
    before = await _row(judged)

    await _admin(judged).retire_feedback(before.feedback[0].id, "the tests were wrong")

    after = await _row(judged)
    assert (before.score, after.score, after.solved) == (1.0, None, None)
    [item] = after.feedback
    assert (item.state, item.state_reason) == ("retired", "the tests were wrong")


async def test_the_table_of_rollouts_says_retired_with_the_reason(
    judged: World, capsys: pytest.CaptureFixture[str]
) -> None:
    await _admin(judged).retire_feedback(await _item(judged), "the tests were wrong")
    place: dict[str, Any] = {
        "database": judged.database.engine.url.render_as_string(hide_password=False),
        "blobs": judged.settings.gateway.blobs,
    }

    await asyncio.to_thread(lists.rollouts_command, run="r", **place)

    assert "– (retired: the tests were wrong)" in capsys.readouterr().out


async def test_who_asks_again_gets_an_error_in_the_place_of_a_retired_judgement(
    judged: World,
) -> None:
    await _admin(judged).retire_feedback(await _item(judged), "the tests were wrong")

    again = await _ask(judged, "later")

    [item] = again.answer.items
    assert again.ticket.cached
    assert (item.score, item.text, item.error) == (None, None, "retired: the tests were wrong")


async def test_a_retired_text_leaves_the_score_beside_it(judged: World) -> None:
    await judged.trainer.record(Records(rollouts=(rollout_of(judged, "r-b", 1),)))
    await _ask(judged, "b", text="other")
    await _answer(judged, [{"score": 0.5, "text": None}, {"score": None, "text": "wrong hint"}])
    row = (await judged.trainer.rollouts("r"))[1]

    await _admin(judged).retire_feedback(row.feedback[1].id, "misleads")

    again = await _ask(judged, "later", text="other")
    assert [item.score for item in again.answer.items] == [0.5]
    assert (await judged.trainer.rollouts("r"))[1].score == 0.5


@on_both_databases
async def test_no_expert_is_asked_with_a_retired_item_in_view(judged: World) -> None:
    [item] = (await _ask(judged, "again")).answer.items
    seen, plain = judged.submission("b", feedback=(item,)), judged.submission("c")
    await judged.trainer.submit_logprobs("uniform", [judged.submission("d", feedback=(item,))])
    await judged.work()
    await _admin(judged).retire_feedback(item.id, "the tests were wrong")

    refused, asked = await judged.trainer.submit_logprobs("uniform", [seen, plain])

    assert (refused.ticket.state, refused.answer) == ("failed", None)
    assert refused.problem.code == "conflict"
    assert "retired: the tests were wrong" in refused.problem.detail
    assert refused.problem.errors[0].field == "submissions[0].query.feedback[0].id"
    assert asked.ticket.state == "queued"


async def test_an_answer_on_its_way_that_saw_a_retired_item_is_refused(judged: World) -> None:
    [item] = (await _ask(judged, "again")).answer.items
    asked = [judged.submission("b", feedback=(item,))]
    [posted] = await judged.trainer.submit_logprobs("uniform", asked)
    await _admin(judged).retire_feedback(item.id, "the tests were wrong")

    await judged.work()

    [outcome] = await judged.trainer.collect_logprobs([posted.ticket.id])
    assert outcome.problem.code == "answer-refused"
    # And the same question again is not asked at all.
    asked[0] = asked[0].model_copy(update={"idempotency_key": "once-more"})
    [again] = await judged.trainer.submit_logprobs("uniform", asked)
    assert (again.problem.code, judged.queue.entries) == ("conflict", [])


@on_both_databases
async def test_a_superseded_judgement_has_its_last_successor_everywhere(judged: World) -> None:
    first = await _item(judged)
    for name in ("second", "third"):
        await _record_own(judged, name)
    admin = _admin(judged)
    await admin.retire_feedback(first, "typing error", superseded_by="second")
    await admin.retire_feedback("second", "again", superseded_by="third")

    again = await _ask(judged, "later")

    assert [(item.id, item.score) for item in again.answer.items] == [("third", 0.25)]
    row = await _row(judged)
    assert row.score == 0.25
    by = {item.id: (item.state, item.superseded_by) for item in row.feedback}
    ended = ("superseded", "third")
    assert by == {first: ended, "second": ended, "third": ("standing", None)}


async def test_a_successor_of_the_same_answer_counts_once(judged: World) -> None:
    await judged.trainer.record(Records(rollouts=(rollout_of(judged, "r-b", 1),)))
    await _ask(judged, "b", text="other")
    await _answer(judged, [{"score": 0.5}, {"score": 0.25}])
    first, second = (await judged.trainer.rollouts("r"))[1].feedback

    await _admin(judged).retire_feedback(first.id, "twice", superseded_by=second.id)

    again = await _ask(judged, "later", text="other")
    assert [(item.id, item.score) for item in again.answer.items] == [(second.id, 0.25)]
    assert (await judged.trainer.rollouts("r"))[1].score == 0.25


async def test_annotators_see_no_retired_judgement(judged: World) -> None:
    await _admin(judged).retire_feedback(await _item(judged), "the tests were wrong")
    intake: Intake = judged.app.state.corrections.intake

    await intake.add_rollouts("by-hand", ["r-a"], 0)

    async with judged.database.read() as conn:
        text = "SELECT document FROM correction_items"
        [(document,)] = await conn.exec_driver_sql(text)
    assert "retired: the tests were wrong" in str(document)
    assert "is wrong, tests" not in str(document)


@on_both_databases
async def test_retiring_twice_changes_nothing_and_is_one_entry_of_the_log(judged: World) -> None:
    item, admin = await _item(judged), _admin(judged)

    first = await admin.retire_feedback(item, "the tests were wrong")
    again = await admin.retire_feedback(item, "another reason")

    assert again == first
    page = await admin.call("GET", "/v1/audit", reply=AuditPage)
    acts = [(e.actor, e.subject, e.detail) for e in page.entries if e.action == "feedback.retire"]
    assert acts == [("admin", item, {"reason": "the tests were wrong"})]


async def test_a_wrong_successor_is_refused_and_nothing_changes(judged: World) -> None:
    item, admin = await _item(judged), _admin(judged)
    await _record_own(judged, "of-another", source="judge")
    await _record_own(judged, "gone")
    await admin.retire_feedback("gone", "no")

    for by, error in (
        ("unknown", NotFound),
        (item, Invalid),
        ("of-another", Invalid),
        ("gone", Conflict),
    ):
        with pytest.raises(error):
            await admin.retire_feedback(item, "no", superseded_by=by)
    with pytest.raises(NotFound, match="no feedback item 'unknown'"):
        await admin.retire_feedback("unknown", "no")

    assert [i.state for i in (await _row(judged)).feedback if i.id == item] == ["standing"]


async def test_a_retired_item_is_not_superseded_later(judged: World) -> None:
    item, admin = await _item(judged), _admin(judged)
    await _record_own(judged, "second")
    await admin.retire_feedback(item, "the tests were wrong")

    with pytest.raises(Conflict, match="is retired: the tests were wrong"):
        await admin.retire_feedback(item, "no", superseded_by="second")


async def test_only_admins_retire(judged: World) -> None:
    with pytest.raises(Forbidden):
        await judged.trainer.retire_feedback(await _item(judged), "no")
