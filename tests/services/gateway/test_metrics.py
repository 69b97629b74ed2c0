"""What `/metrics` tells of questions, answers, services and runs."""

from __future__ import annotations

from typing import Any

import pytest

from preceptor_clients.contract.errors import AnswerRefused
from preceptor_clients.contract.schemas import StepRecord
from preceptor_services.jobs.messages import Directory, ItemResult
from preceptor_services.kit.metrics import Metrics


async def _metrics(world: Any) -> str:
    return (await world.clients["reader"].exchange("GET", "/metrics")).body.decode()


async def test_accepted_answers_are_counted_in_positions_mass_and_cost(world: Any) -> None:
    await world.trainer.submit_logprobs("uniform", [world.submission("a")])
    await world.work()

    text = await _metrics(world)

    assert 'preceptor_positions_total{service="uniform"} 3.0' in text
    # Four of sixteen equally likely tokens were sent.
    assert 'preceptor_captured_mass_sum{service="uniform"} 0.25' in text
    assert 'preceptor_cost_total{service="uniform"} 0.0' in text
    assert 'preceptor_call_tokens_count{service="uniform"} 1.0' in text
    assert 'preceptor_job_seconds_count{service="uniform"} 1.0' in text
    assert 'preceptor_jobs_total{service="uniform",state="done"} 1.0' in text


async def test_refusals_are_counted_by_stage_and_reason(world: Any) -> None:
    with pytest.raises(Exception, match="vocab"):
        await world.trainer.submit_logprobs(
            "uniform", [world.submission("a", vocab_fingerprint="cd" * 32)]
        )
    await world.trainer.submit_logprobs("uniform", [world.submission("b")])
    claims = await world.claim(world.queue.take())
    problem = AnswerRefused("mass", "1.2 is over 1").problem()
    for job in claims.jobs:
        results = [ItemResult(answer_key=i.answer_key, problem=problem) for i in job.items]
        await world.report(job, results)

    text = await _metrics(world)

    name = 'preceptor_refusals_total{reason="%s",service="uniform",stage="%s"} 1.0'
    assert name % ("vocabulary-mismatch", "submission") in text
    assert name % ("answer-refused/mass", "answer") in text


async def test_the_oldest_job_ages_until_it_is_done(world: Any) -> None:
    await world.trainer.submit_logprobs("uniform", [world.submission("a")])
    world.clock.moved_s += 7.0
    waiting = await _metrics(world)
    await world.work()

    age = _value(waiting, 'preceptor_queue_oldest_seconds{service="uniform"}')
    assert 7.0 <= age < 60.0
    assert 'preceptor_queue_oldest_seconds{service="uniform"} 0.0' in await _metrics(world)
    assert 'preceptor_service_ready{role="expert",service="uniform"} 1.0' in waiting


async def test_readiness_tells_of_services_and_dispatchers(world: Any) -> None:
    before = (await world.trainer.exchange("GET", "/readyz")).body
    await world.clients["dispatcher"].call("GET", "/v1/internal/services", reply=Directory)
    after = (await world.trainer.exchange("GET", "/readyz")).body

    assert b'"dispatchers":"none has called"' in before
    assert b'"dispatchers":"called 0 s ago"' in after
    assert b'"services":"3 of 3 ready"' in after


def _step(run: str) -> StepRecord:
    return StepRecord(
        run=run,
        lineage="l0",
        step=0,
        loss=1.0,
        metrics={"seconds/update": 2.5, "grad_norm": 1.0},
        consumed=(),
        weights_before="p/l/0",
        weights_after="p/l/1",
    )


def test_steps_of_a_run_are_counted_with_the_seconds_of_their_phases() -> None:
    metrics = Metrics()
    metrics.count_step(_step("demo"))
    metrics.count_step(_step("demo"))

    text = metrics.render().decode()

    assert 'preceptor_run_steps_total{run="demo"} 2.0' in text
    assert 'preceptor_run_seconds_total{phase="update",run="demo"} 5.0' in text


def test_names_that_callers_choose_make_a_bounded_number_of_series() -> None:
    metrics = Metrics()
    for number in range(300):
        metrics.count_step(_step(f"run-{number}"))
        metrics.count_refusal("uniform", "answer", AnswerRefused(f"check-{number}", "?"))

    lines = metrics.render().decode().splitlines()

    assert sum(line.startswith("preceptor_run_steps_total{") for line in lines) == 100
    assert sum(line.startswith("preceptor_run_seconds_total{") for line in lines) == 100
    assert sum(line.startswith("preceptor_refusals_total{") for line in lines) == 65


def _value(text: str, series: str) -> float:
    [line] = [line for line in text.splitlines() if line.startswith(series + " ")]
    return float(line.split()[-1])
