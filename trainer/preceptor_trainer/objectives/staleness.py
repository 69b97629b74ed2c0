"""Importance weights: rollouts of an older policy keep both terms of a sequence objective.

With y sampled from mu, an older policy or another sampler,

    grad E_{y~pi}[ sum_i c_i ]
        = E_{y~mu}[ sum_i W_i ( grad c_i + c_i sum_{t<i} grad log pi(a_t|s_t) ) ]

    W_i = prod_{j<i} pi(a_j|s_j) / mu(a_j|s_j)

because `c_i` is a function of the state, which the tokens before it determine ("prefix"). The ratio
of the whole rollout in the place of every `W_i` has the same expectation and more variance
("rollout"); where a cost depends on the whole rollout, only that one is right. A token that the
student did not write has the same chance under both policies, and no factor.

A product of many ratios has a variance that grows with their number, so it is bounded from above
by `cap`. That is biased: costs of states that the policy now reaches more often than `cap` times
as mu did weigh too little. `benchmarks/exact_gradient.py` measures bias and variance of each form.

A baseline b of the later costs is subtracted with the weight of the state after the token,
`W_{t+1} * b`: the ratio up to and including `a_t` makes the expectation of `grad log pi(a_t)` zero.

Dimensions: B rollouts of a batch, T response positions.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import pad

from preceptor_trainer.model.batch import TrainBatch
from preceptor_trainer.objectives.checks import one_of
from preceptor_trainer.objectives.importance import MAX_LOG_RATIO


@dataclass(frozen=True, kw_only=True)
class StaleWeights:
    """How rollouts of an older policy are weighted."""

    of: Literal["prefix", "rollout", "none"] = "prefix"
    """The tokens whose ratios are multiplied. With "none" they have the local term only, with the
    weight 1."""
    cap: float = 2.0
    """Upper bound of a product; `inf` is unbiased."""

    def __post_init__(self) -> None:
        one_of("of", self.of, ("prefix", "rollout", "none"))
        if not self.cap > 0:
            raise ValueError(f"cap must be positive, not {self.cap}")

    def stale(self, batch: TrainBatch) -> Tensor:
        """[B] bool: rollouts of an older policy that can be weighted.

        All tokens that the student wrote need the log-probs that they were sampled with. Positions
        that were chosen by a rule have no costs-to-go; such a rollout has the local term only.
        """
        known_B = (batch.behaviour_mask_BT | ~batch.owned_BT).all(-1) & batch.owned_BT.any(-1)
        sampled_B = ~batch.on_policy_B & ~batch.given_B & ~batch.chosen_positions_B
        return sampled_B & known_B if self.of != "none" else torch.zeros_like(known_B)

    def weights(
        self, logprobs_BT: Tensor, batch: TrainBatch, stale_B: Tensor, *, whole: bool = False
    ) -> tuple[Tensor, Tensor]:
        """The weight of the state before each token, and of the state after it.

        Args:
            logprobs_BT: of the sampled tokens under the policy before the step, without gradient.
            batch: has the log-probs that they were sampled with.
            stale_B: rollouts to weight, at most those of `stale`.
            whole: costs depend on the whole rollout: all its tokens count, as in "rollout".

        Returns:
            Two [B, T] tensors; 1 in other rollouts.
        """
        ratio_BT = logprobs_BT - batch.behaviour_logprobs_BT.to(logprobs_BT.dtype)
        counts_BT = batch.owned_BT & stale_B[:, None]
        after_BT = torch.where(counts_BT, ratio_BT, 0.0).cumsum(-1)
        if whole or self.of == "rollout":
            # Nothing is added after the last token, so the last sum is the whole rollout's.
            weight_BT = self._bounded(after_BT[:, -1:].expand_as(after_BT))
            return weight_BT, weight_BT
        before_BT = pad(after_BT, (1, -1))
        return self._bounded(before_BT), self._bounded(after_BT)

    def _bounded(self, log_weight_BT: Tensor) -> Tensor:
        return log_weight_BT.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp().clamp(max=self.cap)
