"""Objectives: student statistics and targets in, one scalar and metrics out.

| file | what |
|---|---|
| `distil.py` | DistIL: forward cross-entropy to experts with the sequence-level gradient |
| `importance.py` | truncated importance weights for what the sampler did differently |
| `metrics.py` | `Mean`, and what every objective reports about a batch |

An objective is a frozen dataclass that is called; its fields are its switches. A recipe imports the
class it wants; nothing is looked up by name. One optimiser step asks it three things:

    advantages = objective.advantages(statistics, batches)      # data, from all rows of the step
    denominator = objective.denominator(batches)                # once, over all rows of the step
    loss, metrics = objective(stats, batch, advantages[i], denominator)      # with gradient
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from preceptor_trainer.batch import TrainBatch
from preceptor_trainer.objectives.metrics import Mean
from preceptor_trainer.statistics import Needs, StudentStatistics


class Sampling(Protocol):
    """How the rollouts were drawn, as far as an objective may object to it."""

    @property
    def temperature(self) -> float:
        """1 samples the policy itself."""
        ...

    @property
    def top_p(self) -> float | None:
        """None or 1 is off."""
        ...

    @property
    def top_k(self) -> int | None:
        """None, 0 or negative is off."""
        ...


@dataclass(frozen=True, kw_only=True)
class Advantages:
    """What the no-gradient pass leaves for the gradient pass, as data."""

    advantage_BT: Tensor
    """Weight of the score term; 0 where a token has none."""
    old_logprobs_BT: Tensor
    """Log-probs of the sampled tokens before the step."""


class Objective(Protocol):
    """What the update calls. Implementations are pure: no state, no model, no optimiser."""

    @property
    def needs(self) -> Needs:
        """The student statistics to compute."""
        ...

    def check(self, sampling: Sampling) -> None:
        """Refuse a way of sampling under which this objective is not what it says.

        Raises:
            ValueError: names the field, its value and the remedy.
        """
        ...

    def advantages(
        self, statistics: Sequence[StudentStatistics], batches: Sequence[TrainBatch]
    ) -> list[Advantages]:
        """Weights of the score term, from all rows of the step together."""
        ...

    def denominator(self, batches: Sequence[TrainBatch]) -> float:
        """What the step's loss is divided by."""
        ...

    def __call__(
        self,
        stats: StudentStatistics,
        batch: TrainBatch,
        advantages: Advantages,
        denominator: float,
    ) -> tuple[Tensor, dict[str, Mean]]:
        """The batch's share of the step's loss, and sums and counts to report."""
        ...
