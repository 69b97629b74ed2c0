"""What is there is read, what is missing is named, what is another's is refused."""

import json
from dataclasses import asdict, replace

import pytest

from preceptor_trainer.experiments.solve.base_rates import BaseRates
from preceptor_trainer.experiments.solve.experiment import (
    Experiment,
    claim_folder,
    read_trajectories,
)
from preceptor_trainer.experiments.solve.report import analyse, attempt_grid, write_discovery
from preceptor_trainer.experiments.solve.test_time import SelfDistillation
from preceptor_trainer.experiments.solve.trajectory import Trajectory
from preceptor_trainer.tasks.programming_by_example.problems import sample_problems


@pytest.fixture(scope="module")
def experiment() -> Experiment:
    problems = sample_problems("train", count=2, seed=5)
    return Experiment(problems=problems, max_attempts=8, seeds=(0, 1))


def fill(experiment, folder):
    """Trajectories of all drivers: test-time solves at 4, the others never."""
    for seed in experiment.seeds:
        for driver in experiment.drivers:
            rows = [
                Trajectory(
                    method=driver,
                    problem_id=problem.id,
                    seed=seed,
                    attempts=4 if driver == "test-time" else 8,
                    solved_at=4 if driver == "test-time" else None,
                    successes=0 if driver == "best-of-k" else None,
                    tokens=100,
                    seconds=2.0,
                )
                for problem in experiment.problems
            ]
            if driver == "test-time":
                for row in rows:
                    path = folder / "cells" / f"test-time-{seed}" / f"{row.problem_id}.json"
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_text(json.dumps(asdict(row)))
                continue
            path = folder / "cells" / f"{driver}-{seed}.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps([asdict(row) for row in rows]))


def test_a_finished_experiment_becomes_a_report_with_its_trajectories(tmp_path, experiment):
    fill(experiment, tmp_path)
    rates = BaseRates(
        split="held_out",
        problems_seed=5,
        problem_ids=("x",) * 9,
        successes_P=(0,) * 9,
        attempts_P=(128,) * 9,
        num_samples=128,
        samples_seed=0,
        student_sha256="0",
    )

    analysis = analyse(experiment, rates, read_trajectories(experiment, tmp_path))
    path = write_discovery(analysis, tmp_path)

    assert [v["mean"] for v in analysis["discovery"]["test-time"]["levels"]] == [0, 0, 1, 1]
    assert analysis["differences"]["best-of-k - test-time"][-1]["mean"] == -1
    assert analysis["discovery"]["best-of-k"]["mean_attempts"] == 8
    stored = json.loads((tmp_path / "discovery.json").read_text())
    assert len(stored["trajectories"]) == 3 * 2 * 2
    assert "discovery@8" in path.read_text()
    assert (tmp_path / "discovery.png").stat().st_size > 1000


def test_a_missing_trajectory_is_named(tmp_path, experiment):
    with pytest.raises(ValueError, match=r"best-of-k-0\.json is missing"):
        read_trajectories(experiment, tmp_path)


def test_a_folder_belongs_to_one_experiment(tmp_path, experiment):
    claim_folder(experiment, tmp_path)
    claim_folder(replace(experiment, seeds=(0, 1, 2)), tmp_path)  # more seeds are the same

    with pytest.raises(ValueError, match=r"test_time.lr = 0\.0002, not 0\.1"):
        claim_folder(replace(experiment, test_time=SelfDistillation(lr=0.1)), tmp_path)


def test_the_grid_ends_with_the_last_attempt():
    assert attempt_grid(8) == [1, 2, 4, 8]
    assert attempt_grid(12) == [1, 2, 4, 8, 12]


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"problems": []}, "problems: is empty"),
        ({"max_attempts": 0}, "max_attempts: must be at least 1, not 0"),
        ({"seeds": ()}, "seeds: is empty"),
        ({"drivers": ()}, "drivers: is empty; valid are best-of-k, multi-turn, test-time"),
        (
            {"drivers": ("multi-turn", "guess")},
            "drivers: 'guess' is not one of best-of-k, multi-turn",
        ),
    ],
)
def test_an_experiment_that_cannot_be_made_is_refused(experiment, fields, words):
    with pytest.raises(ValueError, match=words):
        replace(experiment, **fields)


def test_what_a_folder_was_made_with_stays_readable(experiment):
    # What is on disk compares with these values: others would refuse every folder there is.
    made_with = replace(experiment, problems=experiment.problems[:1]).made_with()

    assert made_with["problems"] == [experiment.problems[0].id]
    assert made_with["max_attempts"] == 8
    assert made_with["multi_turn"].keys() == {"class", "prompt_tokens", "template", "sampling"}
    test_time = made_with["test_time"]
    assert test_time.keys() == {"class", "objective", "lr", "group", "expert"}
    assert (test_time["lr"], test_time["group"], test_time["expert"]) == (2e-4, 16, "self-teacher")
    assert len(made_with["student"]) == 64
