"""Results of cells, written out by hand."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from preceptor_trainer.collect.context import PapersContext
from preceptor_trainer.collect.labelling import ExpertUse
from preceptor_trainer.evaluation.held_out import EvaluationConfig
from preceptor_trainer.experiments.compare.budget import Budget
from preceptor_trainer.experiments.compare.cells import CellResult, Outcomes, identity
from preceptor_trainer.experiments.compare.method import Method, Trial
from preceptor_trainer.experiments.compare.plan import Cell, Comparison, Setting
from preceptor_trainer.experiments.compare.sees import Sees
from preceptor_trainer.experiments.compare.services import self_teacher
from preceptor_trainer.learner.learner import OptimiserConfig
from preceptor_trainer.objectives.distil import DistIL
from preceptor_trainer.run.config import RunConfig
from preceptor_trainer.tasks.programming_by_example.task import PROGRAMMING

MakeResult = Callable[..., CellResult]


class Question:
    """A problem without a world."""

    def __init__(self, id: str) -> None:
        self.id = id
        self.messages = ({"role": "user", "content": id},)
        self.payload: dict[str, object] = {}


def questions(prefix: str, count: int) -> list[Question]:
    return [Question(f"{prefix}-{i}") for i in range(count)]


def stream(seed: int) -> Callable[[int], list[Question]]:
    return _same_problems


def _same_problems(step: int) -> list[Question]:
    return questions("train", 2)


def recipe(trial: Trial) -> RunConfig:
    return RunConfig(
        name=trial.name,
        seed=trial.seed,
        steps=trial.steps,
        model=trial.model,
        problems=trial.problems,
        rollouts_per_problem=trial.rollouts_per_problem,
        checkpoint_every=trial.checkpoint_every,
        evaluation=trial.evaluation,
        objective=DistIL(),
        optimiser=OptimiserConfig(lr=trial.lr),
        experts=(ExpertUse(name="self-teacher"),),
        task=PROGRAMMING,
        context=PapersContext(),
    )


def make_method(name: str = "a", **changes: Any) -> Method:
    fields: dict[str, Any] = {
        "name": name,
        "title": name.upper(),
        "recipe": recipe,
        "sees": Sees(score="chooses demonstrations", trace=True, solution=True),
        "learning_rates": (1e-4, 2e-4),
        "services": {"self-teacher": self_teacher()},
    }
    return Method(**{**fields, **changes})


def make_comparison(model: Path, *methods: Method, **changes: Any) -> Comparison:
    def part(prefix: str, count: int) -> EvaluationConfig:
        return EvaluationConfig(problems=questions(prefix, count), num_samples=8, ks=(1, 8))

    (model / "model.safetensors").write_bytes(b"weights")
    fields: dict[str, Any] = {
        "name": "made up",
        "methods": methods or (make_method("a"), make_method("b")),
        "setting": Setting(
            problems=stream,
            validation=part("validation", 4),
            held_out=part("held", 6),
            probe=part("probe", 2),
            model=model,
        ),
        "budget": Budget(unit="steps", amount=2),
        "seeds": (0, 1),
        "search_seeds": (100,),
    }
    return Comparison(**{**fields, **changes})


def make_result(
    comparison: Comparison, cell: Cell, *, before: int = 2, after: int = 4, **changes: Any
) -> CellResult:
    """A finished cell in which every problem has `before` and then `after` of 8 samples right."""
    evaluation = (
        comparison.setting.validation if cell.stage == "search" else comparison.setting.held_out
    )
    ids = tuple(problem.id for problem in evaluation.problems)

    def outcomes(successes: int) -> Outcomes:
        return Outcomes(
            problem_ids=ids,
            # a little spread over the problems, or there would be nothing to resample
            successes_P=tuple(min(8, successes + i % 2) for i in range(len(ids))),
            num_samples=8,
            mean_length=20.0,
        )

    line = {
        "reward": 0.5, "response_length": 20.0, "entropy": 0.4, "with_teacher": 0.8,
        "targets": 6.0, "rollouts": 8.0, "dropped_answers": 0.0,
    }  # fmt: skip
    probe = {"pass@1": 0.25, "length": 20.0}
    fields: dict[str, Any] = {
        "cell": cell,
        "made_with": identity(comparison, cell),
        "before": outcomes(before),
        "after": outcomes(after),
        "probes": [
            {"step": 0.0, "seconds": 0.0, "tokens": 0.0, **probe},
            {"step": 2.0, "seconds": 3.0, "tokens": 320.0, **probe},
        ],
        "metrics": [line, line],
        "observed": {
            "rollouts": 16,
            "own": 16,
            "scored": 16,
            "kind/execution": 9,
            "kind/demonstration": 3,
            "expert/self-teacher": 12,
        },
        "steps": 2,
        "seconds": 3.0,
        "tokens": 320.0,
        "versions": {"preceptor": "0", "torch": "2"},
    }
    return CellResult(**{**fields, **changes})


@pytest.fixture
def comparison(tmp_path: Path) -> Comparison:
    return make_comparison(tmp_path)


@pytest.fixture
def method() -> Callable[..., Method]:
    """Makes a method."""
    return make_method


@pytest.fixture
def planned(tmp_path: Path) -> Callable[..., Comparison]:
    """Makes a comparison of methods."""
    return lambda *methods, **changes: make_comparison(tmp_path, *methods, **changes)


@pytest.fixture
def result() -> MakeResult:
    """Makes a finished cell."""
    return make_result


@pytest.fixture
def question() -> Callable[[str], Question]:
    """Makes a problem without a world."""
    return Question
