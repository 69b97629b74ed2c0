"""Claims about the evaluations of a run and its best version."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from preceptor_trainer.evaluation.held_out import Evaluation, EvaluationConfig
from preceptor_trainer.evaluation.samples import Sample, read_samples
from preceptor_trainer.run.evaluations import Evaluations, best_weights
from preceptor_trainer.run.standing import BEST_FILE


def sample(response: str = "a\u2028b") -> Sample:
    return Sample(
        problem="p0",
        prompt="?",
        response=response,
        count=2,
        finish_reason="stop",
        solved=True,
        score=1.0,
        says="",
    )


def result(num_solved: int, *, weights: str = "r/l0/0") -> Evaluation:
    successes = np.arange(4).reshape(2, 2) < num_solved
    return Evaluation(
        weights=weights,
        problem_ids=("p0", "p1"),
        successes_PN=successes,
        graded_PN=np.ones_like(successes),
        lengths_PN=np.full((2, 2), 3, np.int32),
        seconds=1.0,
        samples=(sample(),),
    )


@pytest.fixture
def evaluations(tmp_path: Path) -> Evaluations:
    return Evaluations(tmp_path, 30, (1, 2))


def test_the_best_version_is_recorded_as_soon_as_it_is_known(
    evaluations: Evaluations, tmp_path: Path
) -> None:
    for label, solved in (("before", 1), ("step-10", 3), ("step-20", 3), ("after", 2)):
        evaluations.save(label, result(solved, weights=f"r/l0/{label}"))

    best = json.loads((tmp_path / BEST_FILE).read_text())
    assert (best["label"], best["step"], best["weights"]) == ("step-10", 10, "r/l0/step-10")
    assert best["pass_at"]["pass@1"] == pytest.approx(0.75)
    assert [one.step for one in evaluations.all()] == [0, 10, 20, 30]


def test_a_new_lineage_forgets_what_the_ended_one_found_after_its_checkpoint(
    evaluations: Evaluations, tmp_path: Path
) -> None:
    for label, solved in (("before", 1), ("step-10", 2), ("step-20", 4)):
        evaluations.save(label, result(solved))

    evaluations.forget_from(10)

    assert [one.label for one in evaluations.all()] == ["before", "step-10"]
    assert not (tmp_path / "evaluations" / "step-20.samples.jsonl").exists()
    assert json.loads((tmp_path / BEST_FILE).read_text())["step"] == 10
    assert best_weights(tmp_path) == "r/l0/0"


def test_the_result_of_a_run_before_it_was_extended_is_none_of_its_steps(
    evaluations: Evaluations, tmp_path: Path
) -> None:
    evaluations.save("before", result(1))
    result(4).save(tmp_path / "evaluations" / "after-10.json")

    assert [one.label for one in evaluations.all()] == ["before"]


def test_responses_are_read_as_they_were_written(evaluations: Evaluations, tmp_path: Path) -> None:
    evaluations.save("before", result(1))

    assert read_samples(tmp_path / "evaluations" / "before.json") == [sample()]
    assert read_samples(tmp_path / "evaluations" / "none.json") == []


@pytest.mark.parametrize(("every", "due"), [(None, []), (2, [2, 4]), (3, [3])])
def test_an_evaluation_is_due_every_so_many_steps(every: int | None, due: list[int]) -> None:
    config = EvaluationConfig(problems=[object()], num_samples=8, every=every)  # type: ignore[list-item]

    assert [step for step in range(5) if config.is_due(step)] == due
