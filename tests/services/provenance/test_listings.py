"""Lists of runs, rollouts and targets, on both databases."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from sqlalchemy import select

from preceptor_clients.contract.errors import Invalid, NotFound
from preceptor_clients.contract.schemas import (
    FeedbackItem,
    FeedbackQuery,
    FeedbackRecord,
    FeedbackSubmission,
    LineageRecord,
    Records,
    RolloutRecord,
    RunRecord,
)
from preceptor_services.jobs.messages import ItemResult
from preceptor_services.provenance import lists
from preceptor_services.store.provenance.listings import RewardRule, scores_of_group
from preceptor_services.store.tables.provenance import FeedbackItemRow

from ..world import World


@pytest.fixture
def sqlite_url(database_url: str) -> str:
    """Every test of this file runs on both databases."""
    return database_url


@pytest.fixture
async def three(world: World) -> Any:
    """A run with three rollouts: a failed and a solved one of step 0, one of step 1 unjudged."""
    await _begin(world, {"class": "ScoredTask", "solved_at": 0.75})
    rows = [rollout_of(world, "a", 0), rollout_of(world, "b", 0), rollout_of(world, "c", 1)]
    await world.trainer.record(Records(rollouts=tuple(rows)))
    await _judge(world, "a", 0.5)
    await _judge(world, "b", 1.0)
    return world


async def _begin(world: World, task: dict[str, Any]) -> None:
    run = RunRecord(run="r", config={"task": task}, seed=1, versions={"numpy": "1"})
    await world.trainer.start_run(run)
    await world.trainer.start_lineage(LineageRecord(run="r", lineage="l0"))


def rollout_of(world: World, name: str, step: int) -> RolloutRecord:
    query = world.query()
    return RolloutRecord(
        rollout_id=name,
        run="r",
        lineage="l0",
        step=step,
        problem_id="p1",
        group_id="g1",
        prompt=query.prompt,
        response_ids=query.response_ids,
        response_text=f"text of {name}",
        behaviour_logprobs=np.array([-0.5, -1.0, -2.0], np.float32),
        owned=np.ones(3, np.bool_),
        weights="r/l0/0",
        finish_reason="stop",
        sampling={"temperature": 1.0},
    )


async def _judge(world: World, name: str, score: float | None, **fields: Any) -> None:
    """Asked twice, as a trainer that is killed and started again does."""
    payload = await world.trainer.put_blob(json.dumps({}).encode())
    query = FeedbackQuery(
        rollout_id=name,
        prompt=world.query().prompt,
        response_ids=world.query().response_ids,
        response_text=name,
        finish_reason="stop",
        payload_sha256=payload,
    )
    for key in ("once", "again"):
        submission = FeedbackSubmission(idempotency_key=f"{name}/{key}", query=query)
        await world.trainer.submit_feedback("executor", [submission], run="r")
    claims = await world.claim(world.queue.take())
    for job in claims.jobs:
        verdicts = [world.verdict(item.feedback) for item in job.items]
        results = [
            ItemResult(
                answer_key=item.answer_key,
                feedback=verdict.model_copy(
                    update={
                        "items": (verdict.items[0].model_copy(update={"score": score} | fields),)
                    }
                ),
            )
            for item, verdict in zip(job.items, verdicts, strict=True)
        ]
        await world.report(job, results)


async def test_rollouts_are_listed_with_their_text_and_score(three: Any) -> None:
    found = await three.trainer.rollouts("r")

    assert [(r.id, r.step, r.response_text) for r in found] == [
        ("a", 0, "text of a"),
        ("b", 0, "text of b"),
        ("c", 1, "text of c"),
    ]
    assert [(r.score, r.solved) for r in found] == [(0.5, False), (1.0, True), (None, None)]


async def test_rollouts_are_filtered(three: Any) -> None:
    cases: list[tuple[dict[str, Any], list[str]]] = [
        ({"solved": True}, ["b"]),
        ({"solved": False}, ["a"]),
        ({"step": 1}, ["c"]),
        ({"step": 0, "limit": 1}, ["a"]),
    ]
    for filters, wanted in cases:
        assert [r.id for r in await three.trainer.rollouts("r", **filters)] == wanted, filters


async def test_a_page_goes_on_where_the_one_before_ended(three: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr("preceptor_clients.http.gateway._PAGE", 1)

    found = await three.trainer.rollouts("r")

    assert [r.id for r in found] == ["a", "b", "c"]


async def test_runs_are_listed_the_newest_first(three: Any) -> None:
    three.clock.moved_s += 10
    await three.trainer.start_run(RunRecord(run="s", config={}, seed=7, versions={}))

    first, second = await three.trainer.runs()

    assert (first.run, first.seed, first.rollouts) == ("s", 7, 0)
    assert (second.run, second.lineages, second.rollouts, second.targets) == ("r", 1, 3, 0)
    assert [r.run for r in await three.trainer.runs(limit=1)] == ["s"]


async def test_a_runs_lives_say_what_they_differ_in(three: Any) -> None:
    life = LineageRecord(
        run="r", lineage="l1", parent="l0", from_step=1, settings={"steps": 9}, versions={"a": "2"}
    )
    await three.trainer.start_lineage(life)

    found = await three.trainer.run_details("r")

    assert [(one.lineage, one.settings) for one in found.lineages] == [
        ("l0", {}),
        ("l1", {"steps": 9}),
    ]
    assert found.lineages[1].versions == {"a": "2"}


async def test_a_run_goes_on_after_an_upgrade(three: Any) -> None:
    config = {"task": {"class": "ScoredTask", "solved_at": 0.75}}

    await three.trainer.start_run(
        RunRecord(run="r", config=config, seed=1, versions={"numpy": "2"})
    )

    assert (await three.trainer.run_details("r")).versions == {"numpy": "1"}


async def test_a_run_that_is_not_there_is_named(world: World) -> None:
    asked = (
        world.trainer.run_details("none"),
        world.trainer.rollouts("none"),
        world.trainer.targets("none"),
    )

    found = await asyncio.gather(*asked, return_exceptions=True)

    assert [str(error) for error in found] == ["no run none"] * 3
    assert all(isinstance(error, NotFound) for error in found)


async def test_the_command_lists_ids_steps_from_one_and_judgements(
    three: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    place = {
        "database": three.database.engine.url.render_as_string(hide_password=False),
        "blobs": three.settings.gateway.blobs,
    }

    await asyncio.to_thread(lists.rollouts_command, step=2, **place)
    table = capsys.readouterr().out
    await asyncio.to_thread(lists.rollouts_command, run="r", solved=True, as_json=True, **place)
    (row,) = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    await asyncio.to_thread(lists.runs_command, **place)

    assert "text of c" in table
    assert "text of a" not in table
    assert (row["id"], row["step"], row["score"]) == ("b", 1, 1.0)
    assert "rollouts" in capsys.readouterr().out


def test_a_folder_without_records_is_named_with_what_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(typer.Exit):
        lists.runs_command(run_dir=tmp_path)

    assert "--url and --key-file" in capsys.readouterr().err


# The rules themselves are tested on both databases below.
postgres_at_leisure = pytest.mark.parametrize(
    "database_url",
    ["sqlite", pytest.param("postgres", marks=pytest.mark.gauntlet)],
    indirect=True,
)


@postgres_at_leisure
@pytest.mark.parametrize("rule", ["sum", "mean", "min", "first"])
async def test_a_listed_score_is_the_reward_by_the_runs_own_rule(world: World, rule: str) -> None:
    sources: dict[str, Any] = {"sources": ["executor"], "weights": [0.5], "rule": rule}
    await _begin(world, {"class": "CombinedTask", **sources})
    rows = [rollout_of(world, name, 0) for name in "ab"]
    await world.trainer.record(Records(rollouts=tuple(rows)))
    await _judge(world, "a", 0.5)
    await _judge(world, "b", None, error="the box is gone")

    found = await world.trainer.rollouts("r")

    weighted = 0.25 if rule in ("sum", "mean") else 0.5
    assert [(r.score, r.solved) for r in found] == [(weighted, weighted >= 0.5), (None, None)]


async def test_scores_of_one_source_are_added_before_the_rule(world: World) -> None:
    weights = (("executor", 0.5), ("self", 1.0))
    await _begin(world, {"class": "ScoredTask"})
    rows = [rollout_of(world, name, 0) for name in "ab"]
    items = [
        FeedbackItem(id=f"self-{part}", kind="judge", score=part, source="self", version="1")
        for part in (0.2, 0.3)
    ]
    own = tuple(FeedbackRecord(rollout_id="a", item=item) for item in items)
    await world.trainer.record(Records(rollouts=tuple(rows), feedback=own))
    for name in "ab":
        await _judge(world, name, 0.4)

    async with world.database.read() as conn:
        found = {
            rule: await scores_of_group(conn, RewardRule(rule, weights), "r", "l0", 0, "g1")
            for rule in ("min", "sum", "mean")
        }

    # Of `b`, which the source `self` has not judged, there is no reward.
    for rule, reward in (("min", 0.4), ("sum", 0.7), ("mean", 0.35)):
        assert found[rule] == [("a", pytest.approx(reward)), ("b", None)], rule


async def test_an_item_is_recorded_with_its_source_error_time_and_price(world: World) -> None:
    await _begin(world, {"class": "ScoredTask"})
    await world.trainer.record(Records(rollouts=(rollout_of(world, "a", 0),)))
    await _judge(world, "a", None, error="the box is gone", cost=0.5)

    async with world.database.read() as conn:
        [row] = await conn.execute(select(*FeedbackItemRow.__table__.columns))

    assert (row.source, row.error, row.cost) == ("executor", "the box is gone", 0.5)
    assert row.version
    assert row.latency_ms is not None
    assert row.state == "standing"


async def test_an_item_that_no_source_gave_counts_for_its_rollout_and_is_written_once(
    world: World,
) -> None:
    await _begin(world, {"class": "ScoredTask"})
    await world.trainer.record(Records(rollouts=(rollout_of(world, "a", 0),)))
    item = FeedbackItem(id="self-a", kind="judge", score=0.75, source="self", version="1")
    own = Records(feedback=(FeedbackRecord(rollout_id="a", item=item),))

    new = [(await world.trainer.record(own)).new for _ in range(2)]

    assert new == [1, 0]
    assert [r.score for r in await world.trainer.rollouts("r")] == [0.75]
    stray = Records(feedback=(FeedbackRecord(rollout_id="b", item=item),))
    with pytest.raises(Invalid, match="'b' is unknown"):
        await world.trainer.record(stray)
