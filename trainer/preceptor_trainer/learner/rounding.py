"""Versions in bfloat16: half the bytes for those who load them.

A step of training is often smaller than what bfloat16 holds of a weight. Rounded to the nearest,
most weights stay what they were. Rounded up or down by chance, each is right on average, and so are
sums over many. Where the trainer's own passes round to the nearest, versions do too, and are
the very weights that the passes compute with.

Learner and checkpoints keep the weights in float32.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, cast

import torch
from torch import Tensor

from preceptor_trainer.kit.seeding import derived_seed

_INT64_LEAST: Final = -(2**63)
_CACHED: Final = 1 << 15
"""Numbers that are rounded at a time on a CPU: they stay in its cache, and torch does not divide so
few between threads."""


@dataclass(frozen=True, kw_only=True)
class Rounding:
    """From a run's float32 weights to those of its versions."""

    seed: int
    """The run's: the same step is rounded alike after any resume."""
    by_chance: bool
    """Whether weights go up or down by chance; else to the nearest."""

    def rounded(self, weights: dict[str, Tensor], step: int) -> dict[str, Tensor]:
        """The weights that begin `step`. Takes them out of `weights`, which is empty then."""
        lower: dict[str, Tensor] = {}
        for name in list(weights):
            # One by one, so that the memory of both is not held at once.
            weight = weights.pop(name)
            seed = derived_seed(self.seed, "rounding", step, name)
            by_chance = self.by_chance and weight.dtype == torch.float32
            lower[name] = _by_chance(weight, seed) if by_chance else weight.to(torch.bfloat16)
        return lower


def rounded(values: Tensor, random: Tensor) -> Tensor:
    """Values that bfloat16 can hold, right on average.

    Args:
        values: float32; finite.
        random: int32 of the same shape, each of 0 to 65,535 with the same chance.

    Returns:
        float32, of which the lower 16 bits are 0: towards zero, or away from it with the
        probability of what was cut off.
    """
    return ((values.view(torch.int32) + random) & -0x10000).view(torch.float32)


def _by_chance(weight: Tensor, seed: int) -> Tensor:
    is_on_cpu, size = weight.device.type == "cpu", weight.numel()
    generator = torch.Generator(weight.device).manual_seed(seed)
    # Four draws of 16 bits in one of 64.
    drawn: Any = torch.empty(size // 4 + 1, dtype=torch.int64, device=weight.device)
    drawn.random_(_INT64_LEAST, None, generator=generator)
    draws: Tensor = drawn.view(torch.int16)[:size]
    own = weight.contiguous().flatten()
    lower = torch.empty(size, dtype=torch.bfloat16, device=weight.device)
    part = _CACHED if is_on_cpu else max(1, size)
    for to, some, draw in zip(*(_parts(one, part) for one in (lower, own, draws)), strict=True):
        to.copy_(rounded(some, draw.to(torch.int32).add_(0x8000)))
    return lower.view(weight.shape)


def _parts(numbers: Tensor, size: int) -> tuple[Tensor, ...]:
    return cast(Any, numbers).split(size)
