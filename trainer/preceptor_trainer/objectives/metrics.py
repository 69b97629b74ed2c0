"""Metrics that add up over the batches of a step, and those that every objective reports.

Dimensions: B rollouts of a batch, T response positions.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from preceptor_trainer.model.batch import TrainBatch
from preceptor_trainer.model.statistics import StudentStatistics


@dataclass(frozen=True, kw_only=True)
class Mean:
    """A sum and a count, kept apart until the step is complete."""

    total: Tensor
    count: Tensor

    def __add__(self, other: "Mean") -> "Mean":
        return Mean(total=self.total + other.total, count=self.count + other.count)

    def value(self) -> float | None:
        """The mean; None without values, which is not zero."""
        count = float(self.count)
        # None and not 0: a missing mean must not be averaged with those of other steps.
        return float(self.total) / count if count else None


def mean_over(values: Tensor, mask: Tensor) -> Mean:
    """The mean of detached values over a mask of the same shape."""
    total = torch.where(mask, values.detach(), 0.0).sum()
    return Mean(total=total, count=mask.sum())


def mean_over_drawn(values_BT: Tensor, known_BT: Tensor, inclusion_BT: Tensor) -> Mean:
    """The mean over all positions, estimated from the drawn ones weighted by 1 / probability.

    Args:
        values_BT: arbitrary where unknown.
        known_BT: bool, drawn positions.
        inclusion_BT: the probability of drawing each.

    Returns:
        `mean_over(values_BT, known_BT)` where every position was drawn.
    """
    total = torch.where(known_BT, values_BT.detach() / inclusion_BT, 0.0).sum()
    return Mean(total=total, count=torch.where(known_BT, 1 / inclusion_BT, 0.0).sum())


def batch_metrics(stats: StudentStatistics, batch: TrainBatch) -> dict[str, Mean]:
    """Metrics of a rollout batch that do not depend on the objective.

    `behaviour_gap` is the mean of sampler minus trainer log-prob on the sampled tokens: near zero
    for a fresh policy. A large gap means that sampler and trainer do not run the same model.
    """
    owned = batch.owned_BT
    # Rollouts of an older policy have a gap by design and would hide a broken sampler.
    known = owned & batch.behaviour_mask_BT & batch.on_policy_B[:, None]
    everyone = torch.ones_like(batch.has_teacher_B)
    metrics = {
        "response_length": mean_over(batch.response_mask_BT.sum(-1).float(), everyone),
        "has_teacher": mean_over(batch.has_teacher_B.float(), everyone),
        "labelled_share": mean_over(batch.labelled_BT.float(), owned),
        "reward": mean_over(batch.reward_B, batch.reward_mask_B),
        "sampled_logprob": mean_over(stats.sampled_logprobs_BT, owned),
        "behaviour_gap": mean_over(batch.behaviour_logprobs_BT - stats.sampled_logprobs_BT, known),
    }
    if stats.entropy_BT is not None:
        metrics["entropy"] = mean_over(stats.entropy_BT, owned)
    return metrics
