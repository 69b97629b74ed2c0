"""Truncated importance weights, token by token.

    w_t = min( pi(a_t) / pi_old(a_t), cap ) * min( pi_old(a_t) / pi_behaviour(a_t), cap )

The first factor corrects for optimiser steps since the costs were computed, the second for a
sampler that is not exactly the policy (temperature, top-p, another engine's arithmetic). They are
detached: they weigh the loss without a gradient of their own. Truncation trades bias for bounded
variance, and token-level weights are not the exact sequence ratio.

Dimensions: B rollouts of a batch, T response positions.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from preceptor_trainer.model.batch import TrainBatch

# A larger log-ratio is an error rather than drift, and its exponential may overflow.
MAX_LOG_RATIO = 20.0


@dataclass(frozen=True, kw_only=True)
class TruncatedImportance:
    """Truncated importance weights of token losses."""

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
            batch: has the sampler's log-probs.

        Returns:
            [B, T]; 0 where the behaviour log-prob is unknown, since such a token cannot be
            corrected, and 1 in rows that were not sampled from this policy at all.
        """
        # Each factor has its own cap, as in the released code: the product may reach cap squared.
        weights_BT = self.drift(logprobs_BT, old_logprobs_BT) * self.sampler(old_logprobs_BT, batch)
        # Given rows have only the local term, which is not an expectation over their tokens; stale
        # rows have weights of their own (`staleness.py`).
        return torch.where(batch.on_policy_B[:, None], weights_BT, 1.0)

    def score_weights(self, logprobs_BT: Tensor, anchors_BT: Tensor, batch: TrainBatch) -> Tensor:
        """Weights of score terms, which rollouts of an older policy carry too.

        Args:
            logprobs_BT: log-probs of the sampled tokens under the policy now.
            anchors_BT: `sampled_tokens.anchors`: what an older policy's rollouts are corrected to.
            batch: has the sampler's log-probs.

        Returns:
            [B, T] without gradient.
        """
        drift_BT = self.drift(logprobs_BT, anchors_BT)
        corrected_BT = drift_BT * self.sampler(anchors_BT, batch)
        # The anchor of an older policy is its sampler's log-prob, so the second factor is 1.
        return torch.where(batch.on_policy_B[:, None], corrected_BT, drift_BT)

    def drift(self, logprobs_BT: Tensor, old_logprobs_BT: Tensor) -> Tensor:
        """[B, T] the first factor."""
        # Detached, because otherwise lowering the weight would lower the loss.
        return self._capped(logprobs_BT.detach() - old_logprobs_BT)

    def sampler(self, old_logprobs_BT: Tensor, batch: TrainBatch) -> Tensor:
        """[B, T] the second factor; 0 where the behaviour log-prob is unknown."""
        ratio_BT = self._capped(old_logprobs_BT - batch.behaviour_logprobs_BT)
        # Unknown is 0 and not 1: a token with an unknown log-prob is left out.
        return torch.where(batch.behaviour_mask_BT, ratio_BT, 0.0).to(old_logprobs_BT.dtype)

    def _capped(self, log_ratio: Tensor) -> Tensor:
        # Then only bounded from above: that bounds the variance, and small weights are harmless.
        return log_ratio.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp().clamp(max=self.cap)
