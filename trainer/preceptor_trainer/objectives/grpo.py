"""GRPO: each rollout's reward relative to those of its siblings; and DAPO's form of it.

    J(theta) = E[ 1/G sum_i 1/|y_i| sum_t min( r_it A_i, clip(r_it, 1 - low, 1 + high) A_i ) ]
    r_it     = pi(a_it) / pi_old(a_it),      A_i = (r_i - mean(r)) / std(r)

Source: arXiv 2402.03300. No expert is needed: `experts=()`. Groups whose rewards are all equal, all
failed or all solved, have no gradient.

    GRPO()                                                       # the paper's, no reference KL
    GRPO(std=False, divide_by="rollouts", length_constant=1024)  # Dr. GRPO, arXiv 2503.20783
    GRPO.dapo()                                                  # arXiv 2503.14476
    GRPO(std=False, divide_by="tokens", clip=Clip(high=0.28, dual=3.0),
         importance=TruncatedImportance())                       # as compared with by SDPO, DistIL

Traps. The mean over each response's tokens gives a token of a long wrong answer a small weight, so
wrong answers grow. The division by the standard deviation gives a higher weight to problems that
are nearly always or nearly never solved. Both are the paper's, and both can be switched off.
Released code takes "token mean" per micro-batch; here the count is over the whole step.

`pi_old` is the policy before the step, so ratios are 1 for its rollouts. For rollouts of an older
policy it is that policy, where its log-probs are recorded.

DAPO samples further prompts instead of groups without signal. The run does this
(`RunConfig.dynamic_sampling`); here such groups are only left out of the count.

Left out on purpose: KL to a reference policy, which later forms drop (`KDRL` with a frozen expert
is that penalty).

Dimensions: B rollouts of a batch, R of the whole step, T response positions.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from preceptor_trainer.model.batch import TrainBatch
from preceptor_trainer.model.statistics import StudentStatistics
from preceptor_trainer.objectives import Advantages, PlannedRun
from preceptor_trainer.objectives.checks import require_policy_samples, require_rewards
from preceptor_trainer.objectives.clipping import Clip
from preceptor_trainer.objectives.group_rewards import SoftOverlong, group_advantages, has_signal
from preceptor_trainer.objectives.importance import TruncatedImportance
from preceptor_trainer.objectives.metrics import Mean, mean_over
from preceptor_trainer.objectives.sampled_tokens import anchors, sampled
from preceptor_trainer.objectives.token_objective import DivideBy, TokenObjective


@dataclass(frozen=True, kw_only=True)
class GRPO(TokenObjective):
    """The switches of GRPO; the defaults are the paper's."""

    divide_by: DivideBy = "responses"
    """How losses are averaged; by default each response has the same weight."""
    std: bool = True
    """Divide advantages by the group's standard deviation."""
    clip: Clip = Clip()
    """Bounds of the ratio."""
    overlong: SoftOverlong | None = None
    """Penalty on the rewards of long responses, before they are compared."""
    dynamic_sampling: bool = False
    """Groups whose rewards are all equal are not counted. To sample others instead, use
    `RunConfig.dynamic_sampling`."""
    importance: TruncatedImportance | None = None
    """Corrects for a sampler that is not the policy."""

    @classmethod
    def dapo(cls, overlong: SoftOverlong | None = None) -> "GRPO":
        """Clip-higher, token mean, groups without signal not counted."""
        return cls(
            divide_by="tokens", clip=Clip(high=0.28), overlong=overlong, dynamic_sampling=True
        )

    def check(self, plan: PlannedRun) -> None:
        """Refuse runs without rewards to compare, and samplers that are not the policy.

        Raises:
            ValueError: names the field and the reason.
        """
        require_rewards(plan)
        if self.importance is None:
            require_policy_samples(plan, "set importance=TruncatedImportance()")

    def counted(self, batch: TrainBatch) -> Tensor:
        """Sampled tokens of rollouts with a reward."""
        return sampled(batch) & batch.reward_mask_B[:, None]

    def denominator(self, batches: Sequence[TrainBatch]) -> float:
        """The count over the whole step; without groups that have no signal, where asked."""
        # Over the whole step: per batch, a token in a small batch would weigh more than one in a
        # large.
        taken = [self.counted(batch) for batch in batches]
        if self.dynamic_sampling:
            signal_R = has_signal(*self._rewards(batches))
            rows = torch.split(signal_R, [batch.num_rollouts for batch in batches])
            taken = [BT & signal_B[:, None] for BT, signal_B in zip(taken, rows, strict=True)]
        if self.divide_by == "tokens":
            return float(max(sum(int(BT.sum()) for BT in taken), 1))
        # A rollout without a reward is in no mean and so not in the count.
        num_rollouts = max(sum(int(BT.any(-1).sum()) for BT in taken), 1)
        return num_rollouts * (self.length_constant if self.divide_by == "rollouts" else 1.0)

    @property
    def weighs_gains(self) -> bool:
        """Advantages are rewards over the group's mean."""
        return True

    def silent(self, batches: Sequence[TrainBatch]) -> list[Tensor]:
        """Rollouts of groups whose rewards are all equal, and those without a reward."""
        signal_R = has_signal(*self._rewards(batches))
        return list(torch.split(~signal_R, [batch.num_rollouts for batch in batches]))

    def advantages(
        self, statistics: Sequence[StudentStatistics], batches: Sequence[TrainBatch]
    ) -> list[Advantages]:
        """Every rollout's advantage, at each of its tokens."""
        # From all rows of the step: siblings may lie in several batches.
        reward_R, known_R, group_R = self._rewards(batches)
        advantage_R = group_advantages(reward_R, known_R, group_R, std=self.std)
        rows = torch.split(advantage_R, [batch.num_rollouts for batch in batches])
        return [
            Advantages(
                advantage_BT=torch.where(
                    self.counted(batch), rows_B[:, None].to(stats.sampled_logprobs_BT.dtype), 0.0
                ),
                # Rollouts of an older policy are clipped relative to that policy. Otherwise the
                # ratio would start at 1 and not bound the change of the policy since.
                old_logprobs_BT=anchors(stats, batch),
            )
            for rows_B, batch, stats in zip(rows, batches, statistics, strict=True)
        ]

    def log_ratio(
        self, stats: StudentStatistics, batch: TrainBatch, advantages: Advantages
    ) -> Tensor:
        """[B, T] log of the policy over what it is compared with, with gradient."""
        return stats.sampled_logprobs_BT - advantages.old_logprobs_BT

    def token_losses(
        self, stats: StudentStatistics, batch: TrainBatch, advantages: Advantages
    ) -> Tensor:
        """Minus the clipped surrogate."""
        log_ratio_BT = self.log_ratio(stats, batch, advantages)
        loss_BT = self.clip.loss(log_ratio_BT, advantages.advantage_BT)
        if self.importance is not None:
            # Outside the clip: the sampler's deviation is not a change by the optimiser and must
            # not use up the trust region.
            loss_BT = loss_BT * self._sampler_weights(batch, advantages)
        return torch.where(self.counted(batch), loss_BT, 0.0)

    def metrics(
        self, stats: StudentStatistics, batch: TrainBatch, advantages: Advantages
    ) -> dict[str, Mean]:
        """How large advantages are, and how much is clipped."""
        counted_BT = self.counted(batch)
        log_ratio_BT = self.log_ratio(stats, batch, advantages)
        clipped_BT = self.clip.clipped(log_ratio_BT, advantages.advantage_BT)
        return super().metrics(stats, batch, advantages) | {
            "advantage_size": mean_over(advantages.advantage_BT.abs(), counted_BT),
            "clipped": mean_over(clipped_BT.float(), counted_BT),
            "with_signal": mean_over((advantages.advantage_BT != 0).float(), counted_BT),
        }

    def _rewards(self, batches: Sequence[TrainBatch]) -> tuple[Tensor, Tensor, Tensor]:
        """Rewards, which of them count, and group numbers, over the whole step."""
        if self.overlong is not None:
            batches = [_penalised(batch, self.overlong) for batch in batches]
        reward_R = torch.cat([batch.reward_B for batch in batches])
        # A given answer has a reward but no sampled token: it must not raise the mean of the
        # sampled ones.
        known_R = torch.cat([self.counted(batch).any(-1) for batch in batches])
        return reward_R, known_R, torch.cat([batch.group_B for batch in batches])

    def _sampler_weights(self, batch: TrainBatch, advantages: Advantages) -> Tensor:
        """Only the sampler's factor: the clip bounds the change by optimiser steps."""
        assert self.importance is not None
        weights_BT = self.importance.sampler(advantages.old_logprobs_BT, batch)
        # The anchor of an older rollout is its sampler's log-prob, so the ratio corrects for it.
        return torch.where(batch.on_policy_B[:, None], weights_BT, 1.0)


def _penalised(batch: TrainBatch, overlong: SoftOverlong) -> TrainBatch:
    length_B = batch.response_mask_BT.sum(-1)
    return replace(batch, reward_B=batch.reward_B + overlong.penalty(length_B))
