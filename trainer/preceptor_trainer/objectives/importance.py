"""Truncated importance weights, token by token.

    w_t = min( pi(a_t) / pi_old(a_t), cap ) * min( pi_old(a_t) / pi_behaviour(a_t), cap )

The first factor corrects for optimiser steps since the costs were computed, the second for a
sampler that is not quite the policy (temperature, top-p, another engine's arithmetic). Detached:
they re-weight the loss, they are not part of it. Truncation trades bias for bounded variance, and
token-level weights are not the exact sequence ratio.

Dimensions: B rollouts of a batch, T response positions.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from preceptor_trainer.model.batch import TrainBatch

# Beyond this a log-ratio is broken bookkeeping rather than drift; its exponential may overflow.
MAX_LOG_RATIO = 20.0


@dataclass(frozen=True, kw_only=True)
class TruncatedImportance:
    """How much a token's loss may be weighted up."""

    cap: float = 2.0
    """Upper bound of each of the two factors."""

    def __post_init__(self) -> None:
        if not self.cap > 0:
            raise ValueError(f"cap must be positive, not {self.cap}")

    def weights(self, logprobs_BT: Tensor, old_logprobs_BT: Tensor, batch: TrainBatch) -> Tensor:
        """Weights of the tokens' losses, without gradient.

        Args:
            logprobs_BT: log-probs of the sampled tokens under the policy now.
            old_logprobs_BT: the same before the step.
            batch: says what the sampler reported.

        Returns:
            [B, T]; 0 where the behaviour log-prob is unknown, since such a token cannot be
            corrected, and 1 in rows that were not sampled from this policy at all.
        """
        # Each factor has the cap to itself, as in the released code: together they may reach cap
        # squared.
        weights_BT = self.drift(logprobs_BT, old_logprobs_BT) * self.sampler(old_logprobs_BT, batch)
        # Given and stale rows keep the local term alone, which is no expectation over their tokens.
        return torch.where(batch.on_policy_B[:, None], weights_BT, 1.0)

    def score_weights(self, logprobs_BT: Tensor, anchors_BT: Tensor, batch: TrainBatch) -> Tensor:
        """Weights of score terms, which rollouts of an older policy carry too.

        Args:
            logprobs_BT: log-probs of the sampled tokens under the policy now.
            anchors_BT: `sampled_tokens.anchors`: what an older policy's rollouts are corrected to.
            batch: says what the sampler reported.

        Returns:
            [B, T] without gradient.
        """
        drift_BT = self.drift(logprobs_BT, anchors_BT)
        corrected_BT = drift_BT * self.sampler(anchors_BT, batch)
        # The anchor of an older policy is what its sampler reported, so there is nothing left
        # between the two.
        return torch.where(batch.on_policy_B[:, None], corrected_BT, drift_BT)

    def drift(self, logprobs_BT: Tensor, old_logprobs_BT: Tensor) -> Tensor:
        """[B, T] the first factor."""
        # Detached, or the loss would also be lowered by making its own weight small.
        return self._capped(logprobs_BT.detach() - old_logprobs_BT)

    def sampler(self, old_logprobs_BT: Tensor, batch: TrainBatch) -> Tensor:
        """[B, T] the second factor; 0 where the behaviour log-prob is unknown."""
        ratio_BT = self._capped(old_logprobs_BT - batch.behaviour_logprobs_BT)
        # Unknown is 0 and not 1: a token of an unknown sampler counts for nothing rather than for
        # itself.
        return torch.where(batch.behaviour_mask_BT, ratio_BT, 0.0).to(old_logprobs_BT.dtype)

    def _capped(self, log_ratio: Tensor) -> Tensor:
        # Only from above after that: a truncated weight bounds the variance, and a small one does
        # no harm.
        return log_ratio.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp().clamp(max=self.cap)
