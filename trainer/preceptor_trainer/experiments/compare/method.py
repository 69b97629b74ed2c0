"""A method of a comparison, and the trial that its recipe gets.

    def distil(trial: Trial) -> RunConfig: ...

    DISTIL = Method(
        name="distil", title="DistIL", recipe=distil,
        sees=Sees(score="chooses demonstrations", trace=True, solution=True),
        services={"self-teacher": self_teacher()},
        learning_rates=(1e-4, 2e-4, 4e-4),
    )

A recipe decides objective, experts, context and rollout source. The trial decides student,
problems, evaluation, budget and step size, which are the same for all methods.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from preceptor_trainer.evaluation.held_out import EvaluationConfig
from preceptor_trainer.experiments.compare.sees import Sees
from preceptor_trainer.run.config import RunConfig
from preceptor_trainer.tasks.task import Problem

_NAME: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,31}")


@dataclass(frozen=True, kw_only=True)
class Trial:
    """The settings of one run that its method does not decide."""

    name: str
    """Of the run."""
    seed: int
    """Seed of problems and samples."""
    lr: float
    """Learning rate after warm-up."""
    steps: int
    """Most optimiser steps; a budget may end the run earlier."""
    model: Path
    """Folder of the student."""
    problems: Callable[[int], Sequence[Problem]]
    """Step to that step's problems."""
    rollouts_per_problem: int
    """Size of a group."""
    evaluation: EvaluationConfig
    """Validation problems in the search, held-out ones in the end."""
    checkpoint_every: int
    """Steps between checkpoints."""


@dataclass(frozen=True, kw_only=True)
class Service:
    """An expert that a method needs, as the deployment starts it."""

    use: str
    """`module:Class`."""
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Its keyword arguments, JSON values."""
    is_model: bool = False
    """Whether it is a self-teacher or a model in its place: it then also gets `name`, `threads`,
    and the student's `model` unless its options name another."""
    larger: bool = False
    """Whether it is a larger model than the student; others also get `weights_roots`, for their
    weights are versions of the student's."""


@dataclass(frozen=True, kw_only=True)
class RateFrom:
    """Another comparison's search, which chose a method's one learning rate."""

    comparison: str
    """Its name and the budget of its runs."""
    at_edge: bool
    """Whether the rate was the first or last of those tried there."""


@dataclass(frozen=True, kw_only=True)
class Method:
    """One way to train."""

    name: str
    """Lower-case letters, digits and dashes."""
    title: str
    """As people call it."""
    recipe: Callable[[Trial], RunConfig]
    """Builds the run."""
    sees: Sees
    """The information that it uses."""
    learning_rates: tuple[float, ...]
    """Searched; as many as every other method of the comparison has."""
    services: Mapping[str, Service] = field(default_factory=dict[str, Service])
    """The experts that its runs ask, by name."""
    note: str = ""
    """A note for readers, in a sentence."""
    rate_from: RateFrom | None = None
    """Where its one learning rate was chosen, if not here."""

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ValueError(f"name must match {_NAME.pattern}, not {self.name!r}")
        if not self.learning_rates or min(self.learning_rates) <= 0:
            raise ValueError(f"learning_rates must be positive, not {self.learning_rates}")
        if sorted(set(self.learning_rates)) != list(self.learning_rates):
            raise ValueError(f"learning_rates must rise, not {self.learning_rates}")
        if self.rate_from is not None and len(self.learning_rates) > 1:
            raise ValueError(f"rate_from: chose one learning rate, not {self.learning_rates}")

    def build(self, trial: Trial) -> RunConfig:
        """The run of `trial`.

        Raises:
            ValueError: the recipe changed a setting of the trial, or uses an expert that the method
                does not name.
        """
        config = self.recipe(trial)
        kept = {
            "name": (config.name, trial.name),
            "seed": (config.seed, trial.seed),
            "lr": (config.optimiser.lr, trial.lr),
            "steps": (config.steps, trial.steps),
            "model": (config.model, trial.model),
            "problems": (config.problems, trial.problems),
            "evaluation": (config.evaluation, trial.evaluation),
        }
        for name, (has, wanted) in kept.items():
            if has != wanted:
                raise ValueError(f"{name}: the recipe of {self.name!r} changed {wanted} to {has}")
        unknown = [use.name for use in config.experts if use.name not in self.services]
        if unknown:
            raise ValueError(
                f"experts: {self.name!r} uses {unknown}, which are not among its services"
            )
        return config

    @property
    def larger_experts(self) -> frozenset[str]:
        """Names of its experts that are larger models."""
        return frozenset(name for name, service in self.services.items() if service.larger)
