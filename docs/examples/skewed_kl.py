"""An objective in one file: skewed forward KL, which stays small where the student has no mass.

    c_t = sum_v q(v) log( q(v) / (skew q(v) + (1 - skew) p(v)) )

over the expert's ids and the rest as one more token; student p, expert q. Source: DistiLLM, arXiv
2402.03898. `skew = 0` is forward KL; towards 1 the cost of any one token is at most -log(skew).

A recipe imports it and passes `objective=SkewedKL()`. Nothing else changes.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from preceptor_trainer.model.batch import TrainBatch
from preceptor_trainer.model.statistics import Needs, StudentStatistics
from preceptor_trainer.objectives import Advantages, PlannedRun
from preceptor_trainer.objectives.checks import require_distributions, require_experts
from preceptor_trainer.objectives.token_objective import TokenObjective, taught


@dataclass(frozen=True, kw_only=True)
class SkewedKL(TokenObjective):
    """Forward KL to a mixture of expert and student."""

    skew: float = 0.1
    """Share of the expert in the mixture."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.skew < 1:
            raise ValueError(f"skew must be in [0, 1), not {self.skew}")

    @property
    def needs(self) -> Needs:
        """The student's log-probs on the experts' ids."""
        return Needs(target_logprobs=True, entropy=True)

    def check(self, plan: PlannedRun) -> None:
        """Refuse a run without experts, or with one that gives draws instead of probabilities."""
        require_experts(plan)
        require_distributions(plan, "skewed KL")

    def counted(self, batch: TrainBatch) -> Tensor:
        """What the loss is divided by, summed over the step: own tokens with a teacher."""
        return taught(batch)

    def token_losses(
        self, stats: StudentStatistics, batch: TrainBatch, advantages: Advantages
    ) -> Tensor:
        """[B, T] cost of every token, weighted over experts; 0 where none has an opinion."""
        assert stats.target_logprobs_BTEK is not None
        assert stats.tail_logprobs_BTE is not None
        targets = batch.targets
        p_BTEI = torch.cat([stats.target_logprobs_BTEK, stats.tail_logprobs_BTE[..., None]], -1)
        q_BTEI = torch.cat([targets.probs_BTEK, targets.tail_BTE[..., None]], -1)
        mixture_BTEI = self.skew * q_BTEI + (1 - self.skew) * p_BTEI.exp()
        # Where q is 0 the term is 0, whatever the logarithm beside it.
        terms_BTEI = torch.xlogy(q_BTEI, q_BTEI) - torch.xlogy(q_BTEI, mixture_BTEI)
        # Where an expert was asked at drawn positions only, each stands for others.
        cost_BT = (targets.weight_BTE * terms_BTEI.sum(-1)).sum(-1) / batch.inclusion_BT
        return torch.where(batch.labelled_BT, cost_BT, 0.0)
