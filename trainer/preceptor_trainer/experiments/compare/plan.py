"""A comparison as a value, and the cells that it consists of.

    Comparison(name="fast", methods=(DISTIL, SDPO), setting=..., budget=Budget(unit="steps", ...))

Each method's learning rate is searched first, on the validation split and with seeds of its own,
at the same cost for every method: as many rates, seeds and steps. Then each method trains with its
chosen rate on the seeds that count, and is measured on the held-out problems. A method, a rate and
a seed are a cell.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from preceptor_trainer.evaluation.held_out import EvaluationConfig
from preceptor_trainer.experiments.compare.budget import Budget
from preceptor_trainer.experiments.compare.method import Method, Service, Trial
from preceptor_trainer.student import STUDENT_DIR
from preceptor_trainer.tasks.task import Problem

Stage: TypeAlias = Literal["search", "final"]
ProblemStream: TypeAlias = Callable[[int], Sequence[Problem]]


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One run of a comparison."""

    stage: Stage
    method: str
    lr: float
    seed: int

    @property
    def name(self) -> str:
        """Of its run and of its file."""
        return f"{self.stage}-{self.method}-{self.lr:g}-{self.seed}"


@dataclass(frozen=True, kw_only=True)
class Setting:
    """Settings that all methods of a comparison share."""

    problems: Callable[[int], ProblemStream]
    """Seed to the problems of each step."""
    validation: EvaluationConfig
    """Evaluation for the choice of learning rates."""
    held_out: EvaluationConfig
    """Evaluation for the comparison of methods."""
    probe: EvaluationConfig
    """A small evaluation between steps, for the learning curves."""
    probe_every: int = 5
    """Steps between probes."""
    rollouts_per_problem: int = 8
    """Size of a group."""
    model: Path = STUDENT_DIR
    """Folder of the student."""
    checkpoint_every: int = 10
    """Steps between checkpoints."""

    def __post_init__(self) -> None:
        for field in ("probe_every", "rollouts_per_problem", "checkpoint_every"):
            if getattr(self, field) < 1:
                raise ValueError(f"{field}: must be at least 1, not {getattr(self, field)}")


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A comparison: its methods, setting and budget."""

    name: str
    """Of the report."""
    methods: tuple[Method, ...]
    """The methods; the others are compared with the first."""
    setting: Setting
    """The same for all."""
    budget: Budget
    """Of each run, in the search and in the end."""
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    """Of the runs that count; every method trains on each."""
    search_seeds: tuple[int, ...] = (100,)
    """Of the runs that choose a learning rate."""
    ks: tuple[int, ...] = (1, 8)
    """The k of pass@k that are tested. Learning rates are chosen by pass@1."""
    question: str = ""
    """The question of the comparison, in a sentence."""

    def __post_init__(self) -> None:
        names = [method.name for method in self.methods]
        if not names:
            raise ValueError("methods: is empty")
        if len(set(names)) != len(names):
            raise ValueError(f"methods: {names} names one twice")
        numbers = {len(method.learning_rates) for method in self.methods}
        if len(numbers) > 1:
            counts = {m.name: len(m.learning_rates) for m in self.methods}
            raise ValueError(f"learning_rates: the search costs differ, {counts}")
        if set(self.seeds) & set(self.search_seeds):
            raise ValueError(f"search_seeds: {self.search_seeds} overlap with seeds {self.seeds}")
        if not self.seeds or len(set(self.seeds)) != len(self.seeds):
            raise ValueError(f"seeds: must be different and at least one, not {self.seeds}")
        if not self.search_seeds and numbers != {1}:
            raise ValueError("search_seeds: is empty, and there is more than one learning rate")
        num_samples = self.setting.held_out.num_samples
        if max(self.ks) > num_samples:
            raise ValueError(f"ks: pass@{max(self.ks)} needs more than {num_samples} samples")
        self._refuse_shared_problems()
        _ = self.services

    @property
    def services(self) -> dict[str, Service]:
        """All experts that some method asks.

        Raises:
            ValueError: two methods mean different experts by one name.
        """
        found: dict[str, Service] = {}
        for method in self.methods:
            for name, service in method.services.items():
                if found.setdefault(name, service) != service:
                    raise ValueError(f"services: {name!r} means two different experts")
        return found

    def method(self, name: str) -> Method:
        """The method of that name."""
        return next(method for method in self.methods if method.name == name)

    def search_cells(self) -> list[Cell]:
        """Every rate of every method; none where there is nothing to choose."""
        return [
            Cell(stage="search", method=method.name, lr=lr, seed=seed)
            for seed in self.search_seeds
            for method in self.methods
            for lr in method.learning_rates
            if len(method.learning_rates) > 1
        ]

    def final_cells(self, rates: Mapping[str, float]) -> list[Cell]:
        """Every method on every seed, seed by seed, so that finished seeds can be compared."""
        return [
            Cell(stage="final", method=method.name, lr=rates[method.name], seed=seed)
            for seed in self.seeds
            for method in self.methods
        ]

    def trial(self, cell: Cell) -> Trial:
        """What the recipe of a cell's method gets."""
        setting = self.setting
        return Trial(
            name=cell.name,
            seed=cell.seed,
            lr=cell.lr,
            steps=self.budget.most_steps,
            model=setting.model,
            problems=setting.problems(cell.seed),
            rollouts_per_problem=setting.rollouts_per_problem,
            evaluation=setting.validation if cell.stage == "search" else setting.held_out,
            checkpoint_every=setting.checkpoint_every,
        )

    def _refuse_shared_problems(self) -> None:
        """Refuses held-out problems in the validation set, which would bias the comparison."""
        validation = {problem.id for problem in self.setting.validation.problems}
        shared = validation & {problem.id for problem in self.setting.held_out.problems}
        if shared and self.search_cells():
            raise ValueError(f"validation: {len(shared)} of its problems are held out too")
