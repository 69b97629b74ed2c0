"""Rewards of a group compared with each other, and the penalty for responses that are too long.

    A_i = (r_i - mean(r)) / std(r)          over the rollouts of one prompt that have a reward

Source: GRPO (arXiv 2402.03300); without the division, Dr. GRPO (arXiv 2503.20783); the penalty,
DAPO (arXiv 2503.14476, equation 13). The mean includes the rollout itself, as in the papers: the
expected gradient is then (1 - 1/G) of the true one. A rollout without a reward does not count as
reward zero: it is in no mean and has no advantage.

Dimensions: R rollouts of a step.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from preceptor_trainer.objectives.checks import positive

# Added to a group's standard deviation, as released code does.
EPSILON = 1e-4


def group_advantages(reward_R: Tensor, known_R: Tensor, group_R: Tensor, *, std: bool) -> Tensor:
    """Every rollout's reward relative to its group.

    Args:
        reward_R: rewards.
        known_R: bool, rollouts with a reward.
        group_R: group numbers.
        std: divide by the group's standard deviation (of a sample: over G - 1).

    Returns:
        [R]; exactly 0 in groups of one, and where all rewards are equal.
    """
    same_RR = _same_group(known_R, group_R)
    peers_RR = same_RR.to(reward_R.dtype)
    count_R = peers_RR.sum(1)
    # The rollout itself is in the mean, as in the papers; groups have equal size, so the factor of
    # (1 - 1/G) only scales the step. Sums are products with a 0/1 matrix, because the rows of a
    # group need not be adjacent.
    centred_R = reward_R - peers_RR @ torch.where(known_R, reward_R, 0.0) / count_R.clamp(min=1)
    if std:
        squares_R = torch.where(known_R, centred_R.square(), 0.0)
        # Over G - 1, as torch.std does in released code.
        variance_R = peers_RR @ squares_R / (count_R - 1).clamp(min=1)
        centred_R = centred_R / (variance_R.sqrt() + EPSILON)
    # Where all rewards are equal their mean may differ from them by a rounding error (of seven
    # times 0.7 by 6e-8), and divided by EPSILON that is an advantage of 6e-4.
    return torch.where(has_signal(reward_R, known_R, group_R), centred_R, 0.0)


def has_signal(reward_R: Tensor, known_R: Tensor, group_R: Tensor) -> Tensor:
    """[R] bool: rollouts of groups whose rewards differ."""
    # Compared exactly: rewards of one source are equal or meant to differ.
    differ_RR = reward_R[:, None] != reward_R
    same_RR = _same_group(known_R, group_R)
    mixed_R = (differ_RR & same_RR).any(1)
    return mixed_R & known_R


def _same_group(known_R: Tensor, group_R: Tensor) -> Tensor:
    return (group_R[:, None] == group_R) & known_R[:, None] & known_R


@dataclass(frozen=True, kw_only=True)
class SoftOverlong:
    """Subtracts up to 1 from the reward of a response close to the length limit."""

    max_length: int
    """Tokens of the longest response allowed."""
    buffer: int
    """Tokens before that, over which the penalty grows from 0 to 1."""

    def __post_init__(self) -> None:
        positive("buffer", self.buffer)
        if self.buffer > self.max_length:
            raise ValueError(f"buffer={self.buffer} is longer than max_length={self.max_length}")

    def penalty(self, length_R: Tensor) -> Tensor:
        """[R] between -1 and 0."""
        return ((self.max_length - self.buffer - length_R) / self.buffer).clamp(-1, 0)
