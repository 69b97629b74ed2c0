"""Records, steps, accounting and traces, on both databases."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from preceptor_clients.contract.errors import Conflict, Invalid, NotFound
from preceptor_clients.contract.fingerprint import content_hash
from preceptor_clients.contract.schemas import (
    Accounting,
    Credit,
    FeedbackItem,
    LineageRecord,
    Prompt,
    Records,
    RolloutRecord,
    RunRecord,
    StepRecord,
    TargetRecord,
    Trace,
    TraceSource,
    WantedWeights,
)
from preceptor_clients.targets.builder import BUILDER_VERSION, WeightedAnswer, build_target
from preceptor_services.provenance import command as trace_command
from preceptor_services.provenance.drawing import draw

from ..world import World


@pytest.fixture
def sqlite_url(database_url: str) -> str:
    """Every test of this file runs on both databases."""
    return database_url


async def _start(world: World) -> None:
    run = RunRecord(run="r", config={"seed": 1}, seed=1, versions={"preceptor": "1"})
    await world.trainer.start_run(run)
    await world.trainer.start_lineage(LineageRecord(run="r", lineage="l0"))
    await world.publish("r/l0/0")


def _rollout(world: World, name: str, lineage: str = "l0", step: int = 0) -> RolloutRecord:
    query = world.query()
    return RolloutRecord(
        rollout_id=name,
        run="r",
        lineage=lineage,
        step=step,
        problem_id="p1",
        group_id="g1",
        prompt=query.prompt,
        response_ids=query.response_ids,
        response_text="abc",
        behaviour_logprobs=np.array([-0.5, -1.0, -2.0], np.float32),
        owned=np.ones(3, np.bool_),
        weights="r/l0/0",
        finish_reason="stop",
        sampling={"temperature": 1.0},
    )


async def _label(world: World, name: str) -> TargetRecord:
    """Asks source and expert about one rollout, as a trainer does, and builds its target."""
    asked = await world.trainer.submit_feedback(
        "executor", [await world.feedback_submission(f"{name}/f", text=name)]
    )
    await world.work()
    [judged] = await world.trainer.collect_feedback([asked[0].ticket.id])
    demonstration = FeedbackItem(
        id=f"demo-{name}", kind="demonstration", text="do it so", source="siblings", version="1"
    )
    submission = world.submission(
        f"{name}/e",
        weights=WantedWeights(mode="exact", version="r/l0/0"),
        feedback=(demonstration, *judged.answer.items),
    )
    posted = await world.trainer.submit_logprobs("teacher", [submission])
    await world.work()
    [outcome] = await world.trainer.collect_logprobs([posted[0].ticket.id])
    answered = WeightedAnswer(outcome.ticket.answer_id, submission.query, outcome.answer, 1.0)
    target = build_target(name, np.ones(3, np.bool_), [answered])
    return TargetRecord(
        target_id=target.id,
        rollout_id=name,
        builder_version=BUILDER_VERSION,
        settings={},
        answer_ids=(outcome.ticket.answer_id,),
        feedback_ids=tuple(item.id for item in submission.query.feedback),
        arrays=target.to_wire(),
        content_hash=target.content_hash(),
    )


def _step(step: int, rollouts: dict[str, str | None], lineage: str = "l0") -> StepRecord:
    return StepRecord(
        run="r",
        lineage=lineage,
        step=step,
        loss=1.5,
        metrics={"kl": 0.1},
        consumed=tuple(
            Credit(
                rollout_id=rollout,
                target_id=target,
                costs=np.array([0.1, 0.2, 0.3], np.float32),
                advantages=np.array([1.0, -1.0, 0.5], np.float32),
                logprobs=np.array([-0.5, -1.0, -2.0], np.float32),
            )
            for rollout, target in rollouts.items()
        ),
        weights_before=f"r/{lineage}/{step}",
        weights_after=f"r/{lineage}/{step + 1}",
    )


async def _accounting(world: World) -> Accounting:
    return await world.clients["reader"].accounting("r")


async def test_every_token_of_every_target_traces_to_its_sources(world: World) -> None:
    await _start(world)
    await world.trainer.record(Records(rollouts=(_rollout(world, "ro1"), _rollout(world, "ro2"))))
    targets = [await _label(world, "ro1"), await _label(world, "ro2")]
    await world.trainer.record(Records(targets=tuple(targets)))
    await world.trainer.record_step(_step(0, {t.rollout_id: t.target_id for t in targets}))

    places = await world.clients["reader"].targets("r")
    traces = [
        await world.trainer.trace(place.id, position)
        for place in places
        for position in range(place.num_tokens)
    ]

    assert len(traces) == 6
    for trace in traces:
        [source] = trace.sources
        demonstration, executed = source.feedback
        assert trace.token_id == trace.position + 1
        assert (source.expert, source.weights) == ("teacher", "r/l0/0")
        assert source.entries[0][1] == pytest.approx(1 / 16, abs=1e-3)
        assert source.context_hash == "cd" * 32
        assert demonstration.text == "do it so"
        assert executed.details["isolation"] == "none at all"
        assert str(executed.details["answer_id"]).startswith("a-")
        assert executed.text.startswith(trace.rollout_id)
        assert trace.consumed_by == ("l0/0",)
        assert trace.cost == pytest.approx([0.1, 0.2, 0.3][trace.position])
        assert trace.credit == -[1.0, -1.0, 0.5][trace.position], "up: made more likely"
    through = await world.trainer.trace_rollout("ro1", 2)
    assert (through.target_id, through.position) == (targets[0].target_id, 2)
    with pytest.raises(Invalid):
        await world.trainer.trace(targets[0].target_id, 3)
    with pytest.raises(NotFound):
        await world.trainer.trace("t-none", 0)


async def test_the_command_prints_the_whole_chain(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    await _start(world)
    await world.trainer.record(Records(rollouts=(_rollout(world, "ro1"),)))
    target = await _label(world, "ro1")
    await world.trainer.record(Records(targets=(target,)))
    gateway = world.settings.gateway

    await asyncio.to_thread(
        trace_command.trace_target,
        f"{target.target_id}:1",
        database=world.database.engine.url.render_as_string(hide_password=False),
        blobs=gateway.blobs,
    )
    printed = " ".join(capsys.readouterr().out.split())

    for word in (
        "student token 2",
        "▶2◀",
        "expert teacher",
        "r/l0/0",
        "cd" * 32,
        "is wrong",
        "none at",
    ):
        assert word in printed


async def test_a_trace_shows_that_an_item_was_retired_and_its_targets_are_counted(
    world: World,
) -> None:
    await _start(world)
    await world.trainer.record(Records(rollouts=(_rollout(world, "a"),)))
    target = await _label(world, "a")
    await world.trainer.record(Records(targets=(target,)))
    [_, judged] = target.feedback_ids

    ended = await world.clients["admin"].retire_feedback(judged, "the tests were wrong")

    trace = await world.trainer.trace(target.target_id, 0)
    shown = {item.id: item for item in trace.sources[0].feedback}
    assert ended.targets == 1
    assert shown[judged].text is not None
    assert shown[judged].details["state"] == "retired: the tests were wrong"


async def test_records_are_idempotent_and_never_change(world: World) -> None:
    await _start(world)
    rollout = _rollout(world, "ro1")

    first = await world.trainer.record(Records(rollouts=(rollout,)))
    again = await world.trainer.record(Records(rollouts=(rollout,)))
    changed = rollout.model_copy(update={"response_text": "other"})
    with pytest.raises(Conflict):
        await world.trainer.record(Records(rollouts=(changed,)))
    with pytest.raises(Conflict):
        await world.trainer.start_run(RunRecord(run="r", config={}, seed=2, versions={}))

    assert (first.new, again.new) == (1, 0)


async def test_a_target_that_cannot_be_traced_is_refused(world: World) -> None:
    await _start(world)
    await world.trainer.record(Records(rollouts=(_rollout(world, "ro1"),)))
    target = await _label(world, "ro1")
    forged = target.arrays["components"][0] | {"answer_id": "a-forged"}
    arrays = target.arrays | {"components": [forged]}
    changes = {
        "targets[0].rollout_id": {"rollout_id": "ro9"},
        "targets[0].feedback_ids": {"feedback_ids": ("f-none",)},
        "targets[0].content_hash": {"content_hash": "0" * 64},
        "targets[0].answer_ids": {"answer_ids": ("a-none",)},
    }

    for field, change in changes.items():
        with pytest.raises(Invalid) as refused:
            await world.trainer.record(Records(targets=(target.model_copy(update=change),)))
        assert refused.value.errors[0].field == field
    with pytest.raises(Invalid) as refused:
        await world.trainer.record(Records(targets=(_rehashed(target, arrays),)))
    assert refused.value.errors[0].field == "targets[0].answer_ids"
    assert (await _accounting(world)).targets == 0


def _rehashed(target: TargetRecord, arrays: dict[str, Any]) -> TargetRecord:
    ids = tuple(c["answer_id"] for c in arrays["components"])
    return target.model_copy(
        update={"arrays": arrays, "content_hash": content_hash(arrays), "answer_ids": ids}
    )


async def test_no_rollout_is_consumed_twice_on_the_surviving_lineage(world: World) -> None:
    await _start(world)
    names = ("ro1", "ro2", "ro3")
    await world.trainer.record(Records(rollouts=tuple(_rollout(world, n) for n in names)))
    await world.trainer.record_step(_step(0, {"ro1": None}))
    await world.trainer.record_step(_step(1, {"ro2": None}))
    await world.trainer.record_step(_step(1, {"ro2": None}))
    await world.trainer.start_lineage(
        LineageRecord(run="r", lineage="l1", parent="l0", from_step=1)
    )

    with pytest.raises(Conflict) as twice:
        await world.trainer.record_step(_step(1, {"ro1": None}, "l1"))
    await world.trainer.record_step(_step(1, {"ro2": None, "ro3": None}, "l1"))
    counts = await _accounting(world)

    assert twice.value.errors[0].field == "consumed[0].rollout_id"
    assert (counts.lineage, counts.lineages) == ("l1", 2)
    assert (counts.steps, counts.superseded_steps) == (2, 1)
    assert (counts.rollouts, counts.consumed, counts.consumed_twice) == (3, 3, 0)


async def test_records_of_unknown_runs_and_rollouts_are_refused(world: World) -> None:
    with pytest.raises(NotFound) as lineage:
        await world.trainer.record(Records(rollouts=(_rollout(world, "ro1"),)))
    await _start(world)
    with pytest.raises(Invalid) as rollout:
        await world.trainer.record_step(_step(0, {"ro9": None}))

    assert lineage.value.errors[0].field == "rollouts[0].lineage"
    assert rollout.value.errors[0].field == "consumed[0].rollout_id"


async def test_one_feedback_id_means_one_text(world: World) -> None:
    first = FeedbackItem(id="f", kind="comment", text="so", source="me", version="1")
    other = first.model_copy(update={"text": "not so"})
    await world.trainer.submit_logprobs("uniform", [world.submission("a", feedback=(first,))])

    with pytest.raises(Conflict) as refused:
        await world.trainer.submit_logprobs("uniform", [world.submission("b", feedback=(other,))])

    assert refused.value.errors[0].field == "submissions[0].query.feedback[0].id"


def test_every_expert_and_every_table_of_its_feedback_is_in_the_trace() -> None:
    item = FeedbackItem(
        id="f",
        kind="execution",
        text="wrong",
        source="executor",
        version="1",
        details={"run": {"cases": [{"input": "[7]", "got": None}], "tried": ["a", "b"]}},
    )
    sources = tuple(
        TraceSource(
            answer_id=f"a-{expert}",
            expert=expert,
            expert_version="1",
            kind="topk",
            weight=0.5,
            entries=((1, 0.75),),
            tail=0.25,
            feedback=(item,),
        )
        for expert in ("teacher", "words")
    )
    found = Trace(
        target_id="t",
        rollout_id="ro",
        run="r",
        lineage="l0",
        step=0,
        problem_id="p",
        prompt=Prompt(ids=np.array([1], np.int32)),
        response_ids=np.array([1], np.int32),
        response_text="a",
        position=0,
        token_id=1,
        student_weights="r/l0/0",
        owned=True,
        consumed_by=(),
        sources=sources,
    )
    console = Console(width=100)

    with console.capture() as printed:
        console.print(draw(found))
    text = printed.get()

    assert text.count("share 0.5") == 2
    assert text.count("run.cases") == 2
    assert "[7]" in text
    assert "a, b" in text
