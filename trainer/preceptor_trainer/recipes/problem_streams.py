"""The training problems of a comparison: new ones at every step, or epochs over a fixed set."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from preceptor_trainer.kit.seeding import derived_seed
from preceptor_trainer.recipes.quickstart import TrainProblems
from preceptor_trainer.tasks.programming_by_example.problems import Problem


@dataclass(frozen=True, kw_only=True)
class Fresh:
    """New problems of the training split at every step."""

    per_step: int

    def __call__(self, seed: int) -> TrainProblems:
        """The stream of one seed."""
        return TrainProblems(seed=seed, per_step=self.per_step)


@dataclass(frozen=True, kw_only=True)
class Fixed:
    """A set of problems, in epochs."""

    problems: Sequence[Problem]
    per_step: int

    def __post_init__(self) -> None:
        if not 1 <= self.per_step <= len(self.problems):
            raise ValueError(f"per_step: must be 1 to {len(self.problems)}, not {self.per_step}")

    def __call__(self, seed: int) -> Epochs:
        """The stream of one seed."""
        return Epochs(problems=self.problems, seed=seed, per_step=self.per_step)


@dataclass(frozen=True, kw_only=True)
class Epochs:
    """Each epoch has its own order; remaining problems that do not fill a step are left out."""

    problems: Sequence[Problem]
    seed: int
    per_step: int

    def __call__(self, step: int) -> Sequence[Problem]:
        """The problems of a step."""
        steps_per_epoch = len(self.problems) // self.per_step
        epoch, place = divmod(step, steps_per_epoch)
        order = list(range(len(self.problems)))
        random.Random(derived_seed(self.seed, "epoch", epoch)).shuffle(order)
        chosen = order[place * self.per_step : (place + 1) * self.per_step]
        return [self.problems[i] for i in chosen]
