"""Versions in bfloat16 follow the weights that they are rounded from."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from preceptor_trainer.learner.rounding import Rounding

BETWEEN = 1 + 2**-9
"""A quarter of the way from one number of bfloat16 to the next."""


def rounded(weight: Tensor, step: int = 0, *, by_chance: bool = True) -> Tensor:
    [found] = Rounding(seed=7, by_chance=by_chance).rounded({"w": weight}, step).values()
    assert found.dtype == torch.bfloat16
    return found.float()


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_a_weight_goes_to_its_neighbours_with_the_right_mean(sign: float) -> None:
    found = rounded(torch.full((200, 301), sign * BETWEEN)).flatten()

    assert set(found.tolist()) == {sign * 1.0, sign * (1 + 2**-7)}
    for lane in range(4):  # four draws come from one
        share = float((found[lane::4] != sign).float().mean())
        assert 0.23 < share < 0.27


def test_a_step_is_rounded_alike_each_time_and_the_next_one_otherwise() -> None:
    weight = torch.full((500,), BETWEEN)

    assert torch.equal(rounded(weight, 4), rounded(weight, 4))
    assert not torch.equal(rounded(weight, 4), rounded(weight, 5))


@pytest.mark.parametrize("shape", [(), (0,), (3,), (300, 120)])
def test_numbers_that_bfloat16_holds_stay(shape: tuple[int, ...]) -> None:
    held = torch.randn(shape).bfloat16().float()

    assert torch.equal(rounded(held), held)
    if held.ndim == 2:  # rows that are not one after another
        assert torch.equal(rounded(held.T), held.T)


def test_where_the_passes_round_to_the_nearest_versions_do_too() -> None:
    weight = torch.randn(500)

    assert torch.equal(rounded(weight, by_chance=False), weight.bfloat16().float())
