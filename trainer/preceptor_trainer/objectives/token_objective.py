"""Base class of objectives that are a sum over tokens; subclasses define the loss of a token.

    @dataclass(frozen=True, kw_only=True)
    class MyObjective(TokenObjective):
        def token_losses(self, stats, batch, advantages): ...      # [B, T], with gradient
        def counted(self, batch): ...                               # [B, T] bool

Three divisions, each by a count over the whole step, never over a batch:

    "tokens"      sum of token losses / counted tokens
    "responses"   mean over rollouts of the mean over a rollout's counted tokens
    "rollouts"    sum of token losses / (rollouts * length_constant)

Only "rollouts" divides by a number that does not depend on the samples, so only it keeps the
gradient of an expectation. "tokens" lets long responses weigh more than short ones, "responses"
makes a token of a long response weigh less.

Dimensions: B rollouts of a batch, T response positions.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from preceptor_trainer.model.batch import TrainBatch
from preceptor_trainer.model.statistics import Needs, Reads, StudentStatistics
from preceptor_trainer.objectives import Advantages, PlannedRun
from preceptor_trainer.objectives.checks import one_of, positive
from preceptor_trainer.objectives.metrics import Mean, batch_metrics, mean_over

DivideBy: TypeAlias = Literal["tokens", "responses", "rollouts"]


@dataclass(frozen=True, kw_only=True)
class TokenObjective(ABC):
    """A sum of token losses over a count; subclasses say which tokens and what each costs."""

    divide_by: DivideBy = "tokens"
    """The count."""
    length_constant: float = 1.0
    """With "rollouts": scales the loss; a typical response length makes it like a token mean."""

    def __post_init__(self) -> None:
        one_of("divide_by", self.divide_by, ("tokens", "responses", "rollouts"))
        positive("length_constant", self.length_constant)

    @property
    def needs(self) -> Needs:
        """Log-probs of the sampled tokens, which are always there."""
        return Needs(entropy=True)

    def reads(self, batch: TrainBatch) -> Reads:
        """Those of its own position; override it with an `advantages` that reads others."""
        return "own"

    @abstractmethod
    def check(self, plan: PlannedRun) -> None:
        """Refuse a run in which this objective cannot work."""

    @abstractmethod
    def token_losses(
        self, stats: StudentStatistics, batch: TrainBatch, advantages: Advantages
    ) -> Tensor:
        """[B, T] loss of every token, undivided, with gradient; exactly 0 where it has none."""

    @abstractmethod
    def counted(self, batch: TrainBatch) -> Tensor:
        """[B, T] bool: the tokens that make up the count."""

    def advantages(
        self, statistics: Sequence[StudentStatistics], batches: Sequence[TrainBatch]
    ) -> list[Advantages]:
        """No score term; ratios are taken against the policy before the step."""
        return [
            Advantages(
                advantage_BT=torch.zeros_like(stats.sampled_logprobs_BT),
                old_logprobs_BT=stats.sampled_logprobs_BT.detach(),
            )
            for stats in statistics
        ]

    def denominator(self, batches: Sequence[TrainBatch]) -> float:
        """The count over the whole step."""
        if self.divide_by == "tokens":
            # At least 1: a step without counted tokens has the loss 0 instead of 0 / 0.
            return float(max(sum(int(self.counted(batch).sum()) for batch in batches), 1))
        # All rollouts, also those without a teacher: the number of rollouts with a teacher is
        # random, and dividing by it would make a ratio estimator.
        num_rollouts = sum(batch.num_rollouts for batch in batches)
        return num_rollouts * (self.length_constant if self.divide_by == "rollouts" else 1.0)

    def __call__(
        self,
        stats: StudentStatistics,
        batch: TrainBatch,
        advantages: Advantages,
        denominator: float,
    ) -> tuple[Tensor, dict[str, Mean]]:
        """The batch's share of the loss.

        Args:
            stats: of the policy now, with gradient.
            batch: the rows.
            advantages: from the same step.
            denominator: of the whole step.

        Returns:
            Scalar loss, and metrics as sums and counts.
        """
        loss_BT = self.token_losses(stats, batch, advantages)
        counted_BT = self.counted(batch)
        metrics = self.metrics(stats.detach(), batch, advantages)
        metrics["token_loss"] = mean_over(loss_BT, counted_BT)
        if self.divide_by == "responses":
            # All tokens of a row are in one batch, so this division does not depend on the batches.
            loss_BT = loss_BT / counted_BT.sum(-1, keepdim=True).clamp(min=1)
        return loss_BT.sum() / denominator, metrics

    def metrics(
        self, stats: StudentStatistics, batch: TrainBatch, advantages: Advantages
    ) -> dict[str, Mean]:
        """What to report beside the loss."""
        return batch_metrics(stats, batch)


def taught(batch: TrainBatch) -> Tensor:
    """[B, T] bool: own tokens of rollouts with a teacher, the count of expert losses."""
    return batch.owned_BT & batch.has_teacher_B[:, None]


def could_be_known(batch: TrainBatch, known_BT: Tensor) -> Tensor:
    """Tokens with a known value of an expert, or that were left out only by the random draw.

    The count must not depend on the draw, because the losses are divided by its probabilities.

    Args:
        batch: has the probability with which each position was drawn.
        known_BT: bool, where at least one expert returned the value that the objective needs.

    Returns:
        [B, T] bool; equal to `known_BT` where every position was drawn.
    """
    return known_BT | (batch.owned_BT & (batch.inclusion_BT < 1))
