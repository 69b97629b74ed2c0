"""The clipped surrogate of PPO, with a separate bound on each side.

    A >= 0:   min( r A, clip(r, 1 - low, 1 + high) A )
    A <  0:   the same, and never below dual * A

Sources: PPO (arXiv 1707.06347), clip-higher (DAPO, arXiv 2503.14476), dual clip (arXiv 1912.09729).
At the first step on fresh rollouts r is 1 and nothing is clipped.

Dimensions: B rollouts of a batch, T response positions.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from preceptor_trainer.objectives.checks import positive
from preceptor_trainer.objectives.importance import MAX_LOG_RATIO


@dataclass(frozen=True, kw_only=True)
class Clip:
    """Bounds of a token's ratio."""

    low: float = 0.2
    """Clip bound below 1: ratios below 1 - low are clipped."""
    high: float = 0.2
    """Clip bound above 1; a value above `low` lets improbable tokens grow."""
    dual: float | None = None
    """For A < 0, where the ratio is otherwise unbounded: the loss is at most this times |A|."""

    def __post_init__(self) -> None:
        positive("high", self.high)
        if not 0 < self.low <= 1:
            raise ValueError(f"low must be in (0, 1], not {self.low}")
        if self.dual is not None and not self.dual > 1:
            raise ValueError(f"dual must be above 1, not {self.dual}")

    def loss(self, log_ratio_BT: Tensor, advantage_BT: Tensor) -> Tensor:
        """Minus the surrogate.

        Args:
            log_ratio_BT: with gradient.
            advantage_BT: data.

        Returns:
            [B, T]; 0 where the advantage is 0.
        """
        # exp overflows at 89 in float32, and inf times an advantage of 0 is NaN.
        ratio_BT = log_ratio_BT.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()
        clipped_BT = ratio_BT.clamp(1 - self.low, 1 + self.high)
        # The smaller of the two (PPO, equation 7): clipping removes the gradient away from the old
        # policy, never the gradient back to it.
        surrogate_BT = torch.minimum(ratio_BT * advantage_BT, clipped_BT * advantage_BT)
        if self.dual is not None:
            # For A < 0 the minimum is unbounded: a token whose ratio grew a hundredfold would
            # dominate the step.
            floor_BT = torch.maximum(surrogate_BT, self.dual * advantage_BT)
            surrogate_BT = torch.where(advantage_BT < 0, floor_BT, surrogate_BT)
        return -surrogate_BT

    def clipped(self, log_ratio_BT: Tensor, advantage_BT: Tensor) -> Tensor:
        """[B, T] bool: tokens whose ratio is beyond the bound that applies to their sign."""
        too_high_BT = (log_ratio_BT.exp() > 1 + self.high) & (advantage_BT > 0)
        return too_high_BT | ((log_ratio_BT.exp() < 1 - self.low) & (advantage_BT < 0))
