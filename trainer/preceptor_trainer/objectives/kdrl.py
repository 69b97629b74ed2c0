"""KDRL: GRPO with reverse KL to a teacher beside the reward.

    J(theta) = J_GRPO - beta KL(pi || q),     KL by k2:  1/2 (log pi(a_t) - log q(a_t))^2

Source: arXiv 2506.02208. Per token the gradient is `(A - beta (log pi - log q)) grad log pi`: the
expected gradient of k2 over sampled tokens is that of reverse KL, although its value is not that
divergence. Unlike TRRD it learns in groups without signal.

    KDRL(beta=0.002)

Traps. The k3 form, whose value is the better estimate, has another gradient: code that swaps it in
optimises something else. The result is sensitive to beta; where teacher and student are far
apart, the square of the log-ratio makes few tokens dominate the step. With a frozen self-teacher
that sees nothing (`needs_feedback=False`) this is GRPO's penalty to the reference policy.

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
)
from preceptor_trainer.objectives.grpo import GRPO
from preceptor_trainer.objectives.metrics import Mean, mean_over_drawn
from preceptor_trainer.objectives.sampled_tokens import expert_logprobs


@dataclass(frozen=True, kw_only=True)
class KDRL(GRPO):
    """The switches of KDRL."""

    beta: float = 0.002
    """Weight of the divergence against the advantages."""

    def __post_init__(self) -> None:
        super().__post_init__()
        positive("beta", self.beta)
        if self.dynamic_sampling:
            raise ValueError(
                "dynamic_sampling=True leaves groups out of the count that the divergence "
                "still learns from"
            )

    def check(self, plan: PlannedRun) -> None:
        """Refuse what GRPO refuses, and experts that do not score the sampled tokens.

        Raises:
            ValueError: names the field and the reason.
        """
        super().check(plan)
        require_experts(plan)
        require_own_logprobs(plan, "KDRL")
        require_distributions(plan, "KDRL")

    def silent(self, batches: Sequence[TrainBatch]) -> list[Tensor]:
        """None: the divergence also acts in groups without signal."""
        return [torch.zeros_like(batch.on_policy_B) for batch in batches]

    def token_losses(
        self, stats: StudentStatistics, batch: TrainBatch, advantages: Advantages
    ) -> Tensor:
        """Minus the clipped surrogate, plus the divergence where the teacher is known.

        The divergence is over the chance that the position was asked; the reward needs no teacher.
        """
        loss_BT = super().token_losses(stats, batch, advantages)
        # Outside the clip: the divergence must also act where the reward's gradient is clipped.
        return loss_BT + self.beta * self._k2(stats, batch) / batch.inclusion_BT

    def metrics(
        self, stats: StudentStatistics, batch: TrainBatch, advantages: Advantages
    ) -> dict[str, Mean]:
        """The divergence as k2 values it."""
        known_BT = self.counted(batch) & expert_logprobs(batch)[1]
        k2 = mean_over_drawn(self._k2(stats, batch), known_BT, batch.inclusion_BT)
        return super().metrics(stats, batch, advantages) | {"k2": k2}

    def _k2(self, stats: StudentStatistics, batch: TrainBatch) -> Tensor:
        expert_BT, known_BT = expert_logprobs(batch)
        gap_BT = stats.sampled_logprobs_BT - expert_BT
        # With gradient through the square: its derivative is gap * grad log pi, the term that the
        # formula above subtracts from the advantage.
        return torch.where(known_BT & self.counted(batch), 0.5 * gap_BT.square(), 0.0)
