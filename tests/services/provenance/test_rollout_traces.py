"""Traces of rollouts without a target, as runs on rewards have them."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer

from preceptor_clients.contract.errors import Invalid, NotFound
from preceptor_clients.contract.fingerprint import content_hash
from preceptor_clients.contract.schemas import (
    Credit,
    FeedbackItem,
    FeedbackRecord,
    LineageRecord,
    Records,
    RunRecord,
    StepRecord,
    TargetRecord,
    Trace,
)
from preceptor_services.provenance import command
from preceptor_services.provenance.trace import are_gains

from ..databases import sqlite_with_tables
from ..world import World
from .test_listings import rollout_of

on_both_databases = pytest.mark.parametrize("sqlite_url", ["sqlite", "postgres"], indirect=True)
GAINS: dict[str, Any] = {"objective": {"class": "Mine", "advantages": "gains"}}


@pytest.fixture
def sqlite_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if getattr(request, "param", "sqlite") == "postgres":
        return request.getfixturevalue("postgres_with_tables")()
    return sqlite_with_tables(tmp_path / "gateway.db")


async def _begin(world: World, *targets: TargetRecord, consumed: tuple[str, ...] = ()) -> World:
    """Four attempts, of which three are a group; `a` failed, `b` is right, `c` is not judged."""
    run = RunRecord(run="r", config=GAINS, seed=1, versions={})
    await world.trainer.start_run(run)
    await world.trainer.start_lineage(LineageRecord(run="r", lineage="l0"))
    rows = (*(rollout_of(world, name, 0) for name in "abc"), rollout_of(world, "d", 1))
    judged = tuple(
        FeedbackRecord(
            rollout_id=name,
            item=FeedbackItem(
                id=f"f-{name}", kind="verdict", score=score, text=text, source="judge", version="3"
            ),
        )
        for name, score, text in (("a", 0.0, "12 is wrong"), ("b", 1.0, None))
    )
    await world.trainer.record(Records(rollouts=rows, targets=targets, feedback=judged))
    target_of = {target.rollout_id: target.target_id for target in targets}
    if consumed:
        await world.trainer.record_step(_step(consumed, target_of))
    return world


def _step(rollouts: tuple[str, ...], target_of: dict[str, str]) -> StepRecord:
    return StepRecord(
        run="r",
        lineage="l0",
        step=0,
        loss=0.5,
        metrics={},
        consumed=tuple(
            Credit(
                rollout_id=name,
                target_id=target_of.get(name),
                costs=np.full(3, -1e30, np.float32),
                advantages=np.array([-0.75, -0.5, 0.0], np.float32),
                logprobs=np.array([-0.5, -1.0, -2.0], np.float32),
            )
            for name in rollouts
        ),
        weights_before="r/l0/0",
        weights_after="r/l0/1",
    )


@on_both_databases
async def test_a_token_without_a_target_has_its_credit_its_judgements_and_its_group(
    world: World,
) -> None:
    await _begin(world, consumed=("a", "b"))

    found = await world.clients["reader"].trace_rollout("a", 1)

    assert (found.target_id, found.sources, found.token_id) == (None, (), 2)
    assert (found.student_logprob, found.student_weights) == (-1.0, "r/l0/0")
    assert (found.run, found.step, found.consumed_by) == ("r", 0, ("l0/0",))
    assert (found.cost, found.advantage, found.credit) == (None, -0.5, -0.5)
    [judged] = found.judgements
    assert (judged.item.source, judged.item.version, judged.item.score) == ("judge", "3", 0.0)
    assert (judged.item.text, judged.state) == ("12 is wrong", "standing")
    group = [(attempt.rollout_id, attempt.score, attempt.solved) for attempt in found.group]
    assert group == [("a", 0.0, False), ("b", 1.0, True), ("c", None, None)]
    with pytest.raises(Invalid, match=r"3 is outside 0\.\.2"):
        await world.trainer.trace_rollout("a", 3)


async def test_a_rollout_that_no_step_used_has_no_credit_and_a_retired_judgement_says_so(
    world: World,
) -> None:
    await _begin(world)
    await world.clients["admin"].retire_feedback("f-a", "the answer was right")

    found = await world.trainer.trace_rollout("a", 0)

    assert (found.consumed_by, found.advantage, found.credit) == ((), None, None)
    [judged] = found.judgements
    assert (judged.state, judged.state_reason) == ("retired", "the answer was right")
    assert found.group[0].score is None


async def test_a_gain_is_a_credit_of_the_same_sign_also_where_there_is_a_target(
    world: World,
) -> None:
    arrays: dict[str, Any] = {"components": []}
    target = TargetRecord(
        target_id="t-a",
        rollout_id="a",
        builder_version="1",
        settings={},
        answer_ids=(),
        feedback_ids=(),
        arrays=arrays,
        content_hash=content_hash(arrays),
    )
    await _begin(world, target, consumed=("a",))

    found = await world.trainer.trace_rollout("a", 0)

    assert (found.target_id, found.advantage, found.credit) == ("t-a", -0.75, -0.75)


async def test_the_command_prints_a_rollouts_token_with_the_scores_of_its_group(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    await _begin(world, consumed=("a", "b"))
    place: dict[str, Any] = {
        "database": world.database.engine.url.render_as_string(hide_password=False),
        "blobs": world.settings.gateway.blobs,
    }

    await asyncio.to_thread(command.trace_target, "a:1", **place)
    printed = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    with pytest.raises(typer.Exit):
        await asyncio.to_thread(command.trace_target, "e:1", **place)

    for line in (
        "ids 1 ▶2◀ 3",
        "consumed by step 1 of lineage l0",
        "advantage (up: made more likely) -0.5000",
        "says 12 is wrong",
        "from judge, version 3",
        "state standing",
        "a 0 failed this one",
        "b 1 solved",
        "c – –",
    ):
        assert line in printed
    assert not any(line.startswith("cost") for line in printed)
    assert "no target and no rollout 'e' is on record" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("config", "gains"),
    [
        ({"objective": {"class": "Mine", "advantages": "gains"}}, True),
        ({"objective": {"class": "GRPO"}}, True),
        ({"objective": {"class": "DistIL"}}, False),
        ({"objective": "a_function"}, False),
        ({}, False),
    ],
)
def test_records_of_older_releases_are_read_with_the_sign_of_their_objective(
    config: dict[str, Any], gains: bool
) -> None:
    assert are_gains(config) is gains


async def test_a_gateway_of_an_older_release_is_named_with_what_to_do() -> None:
    async def of_target(name: str, position: int) -> Trace:
        raise NotFound(f"no target {name!r}", field="target")

    async def of_rollout(name: str, position: int) -> Trace:
        raise NotFound(f"no route /v1/rollouts/{name}/trace", field="path")

    with pytest.raises(NotFound, match="older release, which traces targets alone: upgrade it"):
        await command.either("a", 0, of_target, of_rollout)
