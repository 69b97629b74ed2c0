"""All three drivers on one question through real services."""

from __future__ import annotations

import pytest
from rich.console import Console

from preceptor_clients.http.gateway import GatewayClient
from preceptor_trainer.experiments.solve.base_rates import LEAST_SAMPLES, LOOK, measure_base_rates
from preceptor_trainer.experiments.solve.experiment import Bench, Experiment, read_trajectories
from preceptor_trainer.experiments.solve.session import Session
from preceptor_trainer.experiments.solve.test_time import SelfDistillation
from preceptor_trainer.run.watching.metrics_log import read_metrics
from preceptor_trainer.student import STUDENT_DIR
from preceptor_trainer.tasks.programming_by_example.problems import sample_problems

pytestmark = [pytest.mark.e2e, pytest.mark.slow]


async def test_every_driver_leaves_a_trajectory_within_its_attempts(running):
    folder, deployment = running.run("solve").run_dir, running.deployment
    experiment = Experiment(
        problems=sample_problems("held_out", count=1, seed=3),
        max_attempts=6,
        seeds=(0,),
        test_time=SelfDistillation(group=4),
    )

    async with GatewayClient(deployment.gateway_url, deployment.key) as gateway:
        await Bench(experiment, folder, gateway, Console(quiet=True)).run()

    found = read_trajectories(experiment, folder)
    for rows in found.values():
        (row,) = rows
        assert row.attempts == (row.solved_at or 6) or row.method == "best-of-k"
        assert 1 <= row.attempts <= 6
    (trained,) = found["test-time"]
    run_dir = folder / "runs" / f"tt-{experiment.problems[0].id}-0"
    steps = [line["step"] for line in read_metrics(run_dir)]
    assert steps == ([] if trained.solved_at and trained.solved_at <= 4 else [1])


async def test_base_rates_count_successes_of_every_problem(running):
    deployment = running.deployment
    problems = sample_problems("train", count=2, seed=4)

    async with GatewayClient(deployment.gateway_url, deployment.key) as gateway:
        rates = await measure_base_rates(
            await Session.open(gateway, run="base-rates", model=STUDENT_DIR),
            split="train",
            problems=problems,
            problems_seed=4,
            num_samples=4,
            samples_seed=0,
            console=Console(quiet=True),
        )

    assert rates.problems() == problems
    assert all(0 <= count <= 4 for count in rates.successes_P)
    assert rates.attempts_P == (4, 4)


async def test_problems_that_left_the_tail_in_the_first_look_get_no_second(running):
    deployment = running.deployment
    problems = sample_problems("train", count=3, seed=4)

    async with GatewayClient(deployment.gateway_url, deployment.key) as gateway:
        rates = await measure_base_rates(
            await Session.open(gateway, run="tail", model=STUDENT_DIR),
            split="train",
            problems=problems,
            problems_seed=4,
            num_samples=LEAST_SAMPLES,
            samples_seed=1,
            console=Console(quiet=True),
        )

    looked = [
        count for count, n in zip(rates.successes_P, rates.attempts_P, strict=True) if n == LOOK
    ]
    assert looked
    assert all(looked), "one that may be in the tail was given up"
    tail = {problem.id for problem in rates.hard_tail()}
    whole = dict(zip(rates.problem_ids, rates.attempts_P, strict=True))
    assert all(whole[problem] == LEAST_SAMPLES for problem in tail)
