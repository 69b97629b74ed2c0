"""An objective in one file: on-policy distillation by the sampled reverse KL.

    A_t = log q(a_t) - log pi_old(a_t),     loss = -sum_t A_t log pi(a_t) / number of tokens

It needs one number per token from the expert (the log-prob of the student's own token) and no
future term. A recipe imports it and passes `objective=SampledReverseKL()`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from preceptor_trainer.batch import TrainBatch
from preceptor_trainer.objectives import Advantages, Sampling
from preceptor_trainer.objectives.metrics import Mean, batch_metrics
from preceptor_trainer.statistics import Needs, StudentStatistics


@dataclass(frozen=True, kw_only=True)
class SampledReverseKL:
    """Pushes each sampled token towards what the experts think of it."""

    @property
    def needs(self) -> Needs:
        """Log-probs of the sampled tokens come always; nothing else is used."""
        return Needs()

    def check(self, sampling: Sampling) -> None:
        """Any sampler will do: the advantage is of the token that was drawn."""

    def advantages(
        self, statistics: Sequence[StudentStatistics], batches: Sequence[TrainBatch]
    ) -> list[Advantages]:
        """Expert minus student, weighted over the experts that know the token."""
        return [self._one(s.detach(), b) for s, b in zip(statistics, batches, strict=True)]

    def _one(self, stats: StudentStatistics, batch: TrainBatch) -> Advantages:
        targets, old_BT = batch.targets, stats.sampled_logprobs_BT
        weight_BTE = targets.weight_BTE * targets.own_mask_BTE
        gap_BTE = targets.own_logprobs_BTE - old_BT[..., None]
        advantage_BT = (weight_BTE * gap_BTE).sum(-1)
        return Advantages(
            advantage_BT=torch.where(batch.scored_BT, advantage_BT, 0.0), old_logprobs_BT=old_BT
        )

    def denominator(self, batches: Sequence[TrainBatch]) -> float:
        """Tokens that carry a term."""
        return float(max(sum(int(b.scored_BT.sum()) for b in batches), 1))

    def __call__(
        self,
        stats: StudentStatistics,
        batch: TrainBatch,
        advantages: Advantages,
        denominator: float,
    ) -> tuple[Tensor, dict[str, Mean]]:
        """The batch's share of the loss, and what every objective reports."""
        score_BT = stats.sampled_logprobs_BT * advantages.advantage_BT
        loss = -torch.where(batch.scored_BT, score_BT, 0.0).sum() / denominator
        return loss, batch_metrics(stats, batch)
