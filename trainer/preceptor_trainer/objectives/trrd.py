"""RLAD's TRRD: GRPO with a trust region anchored at the old policy and at a teacher.

    log r_it = alpha (log pi - log pi_old) + (1 - alpha) clip(log pi - log q, -1, 1)    at a_it
    J(theta) = E[ 1/G sum_i 1/|y_i| sum_t min( r_it A_i, clip(r_it, 1 - low, 1 + high) A_i ) ]

Source: arXiv 2602.22495. `alpha = 1` is GRPO; towards 0 the teacher alone is the anchor (one
sentence there says it the other way round; its formula is this one). The verifier's sign decides
the direction, the teacher only where clipping bites: groups without signal still teach nothing. One
log-prob of the teacher per sampled token is enough.

    TRRD()          # alpha 0.5, clip 0.2 and 0.28

Traps. Without the bound on the teacher's log-ratio (the paper's appendix B) a token that the
teacher holds improbable makes the ratio explode. With it, the teacher's half of the gradient is
zero outside the bound. And at the first step the ratio is not 1 but `(pi/q)^(1 - alpha)`, between
.61 and 1.65 at alpha .5: many tokens begin clipped.

A token with an unknown teacher log-prob is left out. A rollout without a teacher is left out, also
of its group's mean.

With an expert that scores only drawn positions, the bounds apply to the ratio, and the clipped term
is then divided by the probability of drawing its position. All positions with a positive
probability are counted, and a rollout's reward is always in its group's mean. The expected gradient
is then that of scoring all positions; the term of one drawn token exceeds the bounds by the inverse
of its probability. With several experts that draw independently this does not hold: the ratio is
relative to the experts that drew the position, and it is not linear in them.

Dimensions: B rollouts of a batch, T response positions.
"""

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
    within_0_1,
)
from preceptor_trainer.objectives.clipping import Clip
from preceptor_trainer.objectives.grpo import GRPO
from preceptor_trainer.objectives.metrics import Mean, mean_over_drawn
from preceptor_trainer.objectives.sampled_tokens import expert_logprobs
from preceptor_trainer.objectives.token_objective import could_be_known


@dataclass(frozen=True, kw_only=True)
class TRRD(GRPO):
    """The switches of TRRD; the defaults are the paper's."""

    clip: Clip = Clip(high=0.28)
    """Bounds of the ratio."""
    alpha: float = 0.5
    """Share of the old policy in the anchor; the rest is the teacher's."""
    max_log_ratio: float = 1.0
    """Bound of the teacher's log-ratio in nats."""

    def __post_init__(self) -> None:
        super().__post_init__()
        within_0_1("alpha", self.alpha)
        positive("max_log_ratio", self.max_log_ratio)

    def check(self, plan: PlannedRun) -> None:
        """Refuse what GRPO refuses, and experts that do not score the sampled tokens.

        Raises:
            ValueError: names the field and the reason.
        """
        super().check(plan)
        require_experts(plan)
        require_own_logprobs(plan, "TRRD")
        require_distributions(plan, "TRRD")

    def counted(self, batch: TrainBatch) -> Tensor:
        """Sampled tokens that have a reward and a teacher's log-prob, or had a chance of one."""
        return super().counted(batch) & could_be_known(batch, expert_logprobs(batch)[1])

    def log_ratio(
        self, stats: StudentStatistics, batch: TrainBatch, advantages: Advantages
    ) -> Tensor:
        """The policy over the geometric mean of old policy and teacher."""
        to_old_BT = super().log_ratio(stats, batch, advantages)
        to_expert_BT = stats.sampled_logprobs_BT - expert_logprobs(batch)[0]
        # Before weighting and adding: this bound is on the log-ratio to the teacher only (appendix
        # B); the clip bounds the change by optimiser steps.
        bounded_BT = to_expert_BT.clamp(-self.max_log_ratio, self.max_log_ratio)
        return self.alpha * to_old_BT + (1 - self.alpha) * bounded_BT

    def token_losses(
        self, stats: StudentStatistics, batch: TrainBatch, advantages: Advantages
    ) -> Tensor:
        """Minus the clipped surrogate where the teacher is known, over the chance that it is."""
        # After the clip: a ratio divided before it would be clipped because of the draw.
        loss_BT = super().token_losses(stats, batch, advantages) / batch.inclusion_BT
        return torch.where(expert_logprobs(batch)[1], loss_BT, 0.0)

    def metrics(
        self, stats: StudentStatistics, batch: TrainBatch, advantages: Advantages
    ) -> dict[str, Mean]:
        """How much is clipped, and how much of the teacher's log-ratio is beyond its bound."""
        expert_BT, told_BT = expert_logprobs(batch)
        known_BT = self.counted(batch) & told_BT
        log_ratio_BT = self.log_ratio(stats, batch, advantages)
        clipped_BT = self.clip.clipped(log_ratio_BT, advantages.advantage_BT)
        # Beyond the bound the teacher has no gradient: a large share means that it is hardly used.
        beyond_BT = (stats.sampled_logprobs_BT - expert_BT).abs() > self.max_log_ratio
        return super().metrics(stats, batch, advantages) | {
            "clipped": mean_over_drawn(clipped_BT.float(), known_BT, batch.inclusion_BT),
            "beyond_teacher_bound": mean_over_drawn(
                beyond_BT.float(), known_BT, batch.inclusion_BT
            ),
        }
