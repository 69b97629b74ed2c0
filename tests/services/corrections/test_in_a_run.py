"""A run with people: its own side against the real gateway and the people's expert."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from tokenizers import Tokenizer

from preceptor_clients.contract.schemas import FeedbackItem, PrefixSubmission, Records
from preceptor_clients.targets.spelling import TokenizerSpelling
from preceptor_trainer.collect.context import InView
from preceptor_trainer.collect.labelling import Labelled
from preceptor_trainer.collect.participant import StepContext
from preceptor_trainer.collect.people.labels import base_query
from preceptor_trainer.collect.people.people import People, PeopleConfig
from preceptor_trainer.collect.rollouts import Attempt, Rollout
from preceptor_trainer.sampling.params import SamplingParams
from preceptor_trainer.tasks.task import RecordedProblem, ScoredTask

from .conftest import Town

STUDENT = Path(__file__).parents[3] / "trainer/preceptor_trainer/student/model/tokenizer.json"
WEIGHTS = "demo/l0/0"


@pytest.fixture
async def run(town: Town) -> AsyncIterator[People]:
    """The trainer's side, while a dispatcher works beside it."""
    tokenizer: Any = Tokenizer.from_file(str(STUDENT))
    await town.record_rollout("r", "x[0]")
    info = town.people.info()
    people = People(
        config=PeopleConfig(per_step=4, per_round=1, round_steps=5),
        gateway=town.trainer,
        labeller=cast("Any", None),  # asked only where corrections are feedback
        run="demo",
        seed=0,
        spelling=TokenizerSpelling(tokenizer, eos_id=257, special_ids=range(256, 261)),
        vocab_fingerprint=info.capabilities.vocab_fingerprint,
    )
    dispatching = asyncio.create_task(_dispatch_forever(town))
    yield people
    dispatching.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await dispatching


async def _dispatch_forever(town: Town) -> None:
    while True:
        if town.office.queue.entries:
            await town.dispatch()
        await asyncio.sleep(0.01)


def failed(town: Town, rollout_id: str, text: str, group: int = 0) -> Labelled:
    ids = town.ids_of(text)
    rollout = Rollout(
        rollout_id=rollout_id,
        group_id=f"g{group}",
        group=group,
        problem=RecordedProblem(
            id=f"p{group}", messages=[{"role": "user", "content": f"?{group}"}]
        ),
        payload_sha256="",
        prompt_ids=[63],
        response_ids=ids,
        response_text=text,
        behaviour_logprobs=np.full(len(ids), -1.0, np.float32),
        owned=np.ones(len(ids), np.bool_),
        finish_reason="stop",
        step=0,
        weights=WEIGHTS,
    )
    trace = FeedbackItem(
        id="f", kind="execution", score=0.0, text="wrong", source="executor", version="1"
    )
    attempt = Attempt(rollout=rollout, items=(trace,), task=ScoredTask(sources=("executor",)))
    return Labelled(attempt=attempt, in_view=InView((), frozenset()), target=None)


async def _step(people: People, step: int, labelled: list[Labelled]) -> list[Labelled]:
    at = StepContext(
        step=step,
        prefix=f"demo-l0-{step}",
        weights=WEIGHTS,
        student=cast("Any", None),  # nothing is sampled here
        params=SamplingParams(),
    )
    return await people.labelled(at, labelled)


async def test_failed_rollouts_go_to_people_and_come_back_as_recorded_targets(
    town: Town, run: People
) -> None:
    ann = await town.office.person("ann")
    rows = [failed(town, "r", "x[0]+1"), failed(town, "s", "y", group=1)]

    first = await _step(run, 0, rows)
    claim = await ann.claim()
    assert claim is not None
    nothing_left = await ann.claim()
    await town.correct_claim(ann, claim, "y[0]+2")
    while not await town.people.answer_due():
        await asyncio.sleep(0.01)
    back = await _step(run, 1, [])
    rollouts = tuple(row.attempt.rollout.record("demo", "l0", SamplingParams()) for row in back)
    targets = tuple(record for row in back if (record := row.record()) is not None)
    written = await town.trainer.record(Records(rollouts=rollouts, targets=targets))

    assert first == []
    assert claim.item.summary.round == "demo-0"
    assert claim.item.summary.reason == "failed"
    assert [item.text for item in claim.item.feedback] == ["wrong"]
    assert nothing_left is None, "the round's budget is one item"
    assert {row.attempt.rollout.response_text for row in back} == {"x[0]+1", "y[0]+2"}
    assert written.new == 4
    assert run.metrics(0) == {
        "corrections/sent": 1.0,
        "corrections/standing": 0.0,
        "corrections/trained": 0.0,
    }
    assert run.metrics(1) == {
        "corrections/sent": 0.0,
        "corrections/standing": 1.0,
        "corrections/trained": 2.0,
    }
    trace = await town.trainer.trace(targets[0].target_id, 0)
    assert trace.sources[0].feedback[-1].details["person"] == "ann"


async def test_an_answer_that_another_run_has_brought_is_joined_without_an_arrival(
    town: Town, run: People
) -> None:
    ann = await town.office.person("ann")
    row = failed(town, "r", "x[0]")
    asked = base_query(row, run.vocab_fingerprint).model_copy(update={"rollout_id": "elsewhere"})
    earlier = PrefixSubmission(idempotency_key="earlier", query=asked)
    await town.trainer.submit_logprobs("people", [earlier], run="demo")
    while (claim := await ann.claim()) is None:
        await asyncio.sleep(0.01)
    await town.correct_claim(ann, claim, "x[9]")
    while not await town.people.answer_due():
        await asyncio.sleep(0.01)

    await _step(run, 0, [row])
    claim = await ann.claim()
    assert claim is not None
    await town.correct_claim(ann, claim, "x[9]")
    back = await _step(run, 1, [])

    assert {row.attempt.rollout.response_text for row in back} == {"x[9]"}
    assert {row.attempt.rollout.group_id for row in back} == {"people/r", "people/elsewhere"}


async def test_a_run_that_starts_again_has_all_corrections_and_drops_retired_ones(
    town: Town, run: People
) -> None:
    ann = await town.office.person("ann")
    await _step(run, 0, [failed(town, "r", "x[0]+1")])
    claim = await ann.claim()
    assert claim is not None
    await town.correct_claim(ann, claim, "y[0]+2")
    while not await town.people.answer_due():
        await asyncio.sleep(0.01)
    await _step(run, 1, [])

    run.results_cursor = run.arrivals_cursor = 0
    run.corrections.clear()
    run.answered.clear()
    run.taken_over.clear()
    again = await _step(run, 2, [])
    await town.office.tool().retire("ann", "left")
    after = await _step(run, 3, [])

    assert len(again) == 2
    assert after == []


async def test_a_retired_label_that_another_run_had_brought_is_dropped_and_asked_for_again(
    town: Town, run: People
) -> None:
    ann, ben = await town.office.person("ann"), await town.office.person("ben")
    row = failed(town, "r", "x[0]")
    asked = base_query(row, run.vocab_fingerprint).model_copy(update={"rollout_id": "elsewhere"})
    earlier = PrefixSubmission(idempotency_key="earlier", query=asked)
    await town.trainer.submit_logprobs("people", [earlier], run="other")
    while (claim := await ann.claim()) is None:
        await asyncio.sleep(0.01)
    await town.correct_claim(ann, claim, "x[1]")
    while not await town.people.answer_due():
        await asyncio.sleep(0.01)
    await _step(run, 0, [row])
    await town.correct_claim(ben, await ben.claim(round_name="demo-0"), "x[2]")
    await _step(run, 1, [])
    anns = run.answered["r"].answer.ids_PK[2].tolist()

    await town.office.tool().retire("ann", "left")
    await _step(run, 2, [])
    assert run.answered == {}
    while not await town.people.answer_due():
        await asyncio.sleep(0.01)
    await _step(run, 3, [])

    assert anns == [ord("1")]
    assert run.answered["r"].answer.ids_PK[2].tolist() == [ord("2")]
