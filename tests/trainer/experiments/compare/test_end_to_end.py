"""A small comparison through real services, interrupted and started again."""

from __future__ import annotations

import pytest
from rich.console import Console

from preceptor_trainer.evaluation.held_out import EvaluationConfig
from preceptor_trainer.experiments.compare.analysis import analyse
from preceptor_trainer.experiments.compare.budget import Budget
from preceptor_trainer.experiments.compare.command import with_middle_rate
from preceptor_trainer.experiments.compare.page import write_comparison
from preceptor_trainer.experiments.compare.plan import Comparison, Setting
from preceptor_trainer.experiments.compare.runner import Runner
from preceptor_trainer.recipes.methods import DISTIL, DISTIL_LOCAL
from preceptor_trainer.recipes.problem_streams import Fresh
from preceptor_trainer.tasks.programming_by_example.problems import sample_problems

pytestmark = [pytest.mark.e2e, pytest.mark.slow]


def evaluation(split, count):
    problems = sample_problems(split, count=count, seed=1)
    return EvaluationConfig(problems=problems, num_samples=4, ks=(1, 4))


def small():
    return Comparison(
        name="small",
        methods=(with_middle_rate(DISTIL), with_middle_rate(DISTIL_LOCAL)),
        setting=Setting(
            problems=Fresh(per_step=2),
            rollouts_per_problem=4,
            validation=evaluation("validation", 4),
            held_out=evaluation("held_out", 4),
            probe=evaluation("validation", 2),
            probe_every=1,
            checkpoint_every=1,
        ),
        budget=Budget(unit="steps", amount=2),
        seeds=(0,),
        ks=(1, 4),
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("compare")
    comparison = small()
    return comparison, folder, Runner(comparison, folder, Console(quiet=True)).run()


def test_every_method_is_measured_on_the_same_problems_from_the_same_start(finished):
    _, _, (search, final) = finished

    assert search == []
    first, second = final
    assert first.before == second.before
    assert first.after.problem_ids == second.after.problem_ids
    assert [first.steps, second.steps] == [2, 2]
    assert [p["step"] for p in first.probes] == [0, 1, 2]


def test_methods_of_one_seed_meet_the_same_problems_and_begin_with_the_same_samples(finished):
    _, _, (_, (first, second)) = finished

    assert first.metrics[0]["reward"] == second.metrics[0]["reward"]
    assert first.metrics[0]["response_length"] == second.metrics[0]["response_length"]


def test_what_was_used_is_counted(finished):
    _, _, (_, (first, _)) = finished

    assert first.observed["rollouts"] == first.observed["own"] == 2 * 2 * 4
    assert 0 < first.observed["expert/self-teacher"] <= 16
    assert [line["discarded_rollouts"] for line in first.metrics] == [0, 0]
    assert first.wall_seconds > first.seconds > 0


def test_a_finished_comparison_starts_nothing_and_reports_again(finished, monkeypatch):
    comparison, folder, results = finished
    monkeypatch.setattr("preceptor_trainer.experiments.compare.runner.LocalDeployment", None)

    again = Runner(comparison, folder, Console(quiet=True)).run()
    page = write_comparison(analyse(comparison, *again), folder)

    assert again == results
    assert "DistIL, local term only" in page.read_text()


def test_a_finished_run_keeps_its_report_and_not_its_weights(finished):
    _, folder, (_, (first, _)) = finished
    run_dir = folder / "runs" / first.cell.name

    assert (run_dir / "report.html").exists()
    assert not (run_dir / "weights").exists()
