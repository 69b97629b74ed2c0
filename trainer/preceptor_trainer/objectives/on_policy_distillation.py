"""On-policy distillation: reverse KL to a teacher, estimated at the sampled token.

    A_t = sg( log q(a_t|s_t) - log pi(a_t|s_t) )
    L   = - E_{y ~ pi}[ sum_t A_t log pi(a_t|s_t) ]

Source: https://thinkingmachines.ai/blog/on-policy-distillation/. It needs one log-prob of the
teacher per token. Each token is credited with its own log-ratio only (discount 0): the expected
gradient is that of the per-token reverse KL with the states held fixed, not of the sequence's.

    OnPolicyDistillation(importance=TruncatedImportance())

Trap: the value of this loss is not a divergence, may be negative, and may rise while the student
improves; read the metric `reverse_kl` instead. And where the teacher holds a token nearly
impossible, one sample has a huge weight: `max_log_ratio` bounds it, at a bias.

Dimensions: B rollouts of a batch, T response positions.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from preceptor_trainer.model.batch import TrainBatch
from preceptor_trainer.model.statistics import StudentStatistics
from preceptor_trainer.objectives import Advantages, PlannedRun
from preceptor_trainer.objectives.checks import (
    positive,
    require_distributions,
    require_experts,
    require_own_logprobs,
    require_policy_samples,
)
from preceptor_trainer.objectives.importance import TruncatedImportance
from preceptor_trainer.objectives.metrics import Mean, mean_over_drawn
from preceptor_trainer.objectives.sampled_tokens import anchors, expert_logprobs, sampled
from preceptor_trainer.objectives.token_objective import TokenObjective, could_be_known


@dataclass(frozen=True, kw_only=True)
class OnPolicyDistillation(TokenObjective):
    """The switches of on-policy distillation."""

    max_log_ratio: float | None = None
    """Bound of each token's advantage in nats; biased, and off by default."""
    importance: TruncatedImportance | None = None
    """Corrects for a sampler that is not the policy."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.max_log_ratio is not None:
            positive("max_log_ratio", self.max_log_ratio)

    @property
    def weighs_gains(self) -> bool:
        """Advantages are how much likelier the teacher finds the token."""
        return True

    def check(self, plan: PlannedRun) -> None:
        """Refuse experts that do not score the sampled tokens, and samplers not the policy.

        Raises:
            ValueError: names the field and the reason.
        """
        require_experts(plan)
        require_distributions(plan, "on-policy distillation")
        require_own_logprobs(plan, "on-policy distillation")
        if self.importance is None:
            require_policy_samples(plan, "set importance=TruncatedImportance()")

    def counted(self, batch: TrainBatch) -> Tensor:
        """Sampled tokens that some expert scored, or had a chance to score."""
        return sampled(batch) & could_be_known(batch, expert_logprobs(batch)[1])

    def advantages(
        self, statistics: Sequence[StudentStatistics], batches: Sequence[TrainBatch]
    ) -> list[Advantages]:
        """The teacher's log-ratio at every sampled token."""
        return [
            Advantages(
                # From before the step and without gradient, because it is the weight of a score
                # term: its own derivative would add the gradient of minus the entropy.
                advantage_BT=self._log_ratio(stats.detach(), batch),
                old_logprobs_BT=anchors(stats, batch),
            )
            for stats, batch in zip(statistics, batches, strict=True)
        ]

    def token_losses(
        self, stats: StudentStatistics, batch: TrainBatch, advantages: Advantages
    ) -> Tensor:
        """The score term of every sampled token."""
        # Minus: the advantage is a gain, not a cost.
        loss_BT = -advantages.advantage_BT * stats.sampled_logprobs_BT / batch.inclusion_BT
        if self.importance is not None:
            loss_BT = loss_BT * self.importance.score_weights(
                stats.sampled_logprobs_BT, advantages.old_logprobs_BT, batch
            )
        return torch.where(_scored(batch), loss_BT, 0.0)

    def metrics(
        self, stats: StudentStatistics, batch: TrainBatch, advantages: Advantages
    ) -> dict[str, Mean]:
        """The reverse KL as the samples estimate it."""
        reverse_kl = mean_over_drawn(-advantages.advantage_BT, _scored(batch), batch.inclusion_BT)
        return super().metrics(stats, batch, advantages) | {"reverse_kl": reverse_kl}

    def _log_ratio(self, stats: StudentStatistics, batch: TrainBatch) -> Tensor:
        expert_BT, _ = expert_logprobs(batch)
        ratio_BT = expert_BT - stats.sampled_logprobs_BT
        if self.max_log_ratio is not None:
            # Bounded on both sides: a drawn token that the student finds nearly impossible has as
            # large a weight as one that the teacher finds nearly impossible.
            ratio_BT = ratio_BT.clamp(-self.max_log_ratio, self.max_log_ratio)
        return torch.where(_scored(batch), ratio_BT, 0.0)


def _scored(batch: TrainBatch) -> Tensor:
    """[B, T] bool: sampled tokens with a known log-prob of at least one expert."""
    return sampled(batch) & expert_logprobs(batch)[1]
