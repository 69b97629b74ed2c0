"""A step without padding is the step with it: loss, gradient and credits."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from preceptor_trainer.learner.learner import Learner, OptimiserConfig
from preceptor_trainer.model.batch import make_batches
from preceptor_trainer.model.even_batches import make_even_batches
from preceptor_trainer.model.packed import packed_contexts, packed_rows
from preceptor_trainer.model.trunk import padded
from preceptor_trainer.objectives.distil import DistIL
from preceptor_trainer.objectives.grpo import GRPO

from ..model.small_rows import qwen3


@pytest.fixture
def rollouts(make_labelled):
    """Three groups of prompts and responses of different lengths."""
    draw = np.random.default_rng(0)
    return [
        make_labelled(
            f"{group}-{i}",
            draw.integers(0, 3, 1 + int(draw.integers(9))).tolist(),
            seed=i,
            group=group,
            prompt_ids=[1, 2, 0, 1][: 2 + group],
            reward=float(i % 2),
        )
        for group in range(3)
        for i in range(3)
    ]


def stepped(batches, objective, trunk):
    """The result of a step, and the gradient that the optimiser got."""
    own = qwen3()
    gradients: list[torch.Tensor] = []
    own_parameters = list(own.parameters())
    config = OptimiserConfig(lr=1e-3, max_grad_norm=None)
    learner = Learner(own, config, trunk=trunk)
    hook = learner._optimiser.register_step_pre_hook(
        lambda *_: gradients.append(torch.cat([p.grad.flatten() for p in own_parameters]))
    )
    result = learner.step(batches, objective)
    hook.remove()
    return result, gradients[0]


@pytest.mark.parametrize("trunk", [packed_contexts, packed_rows])
@pytest.mark.parametrize(
    "objective", [DistIL(), DistIL(future="none"), GRPO()], ids=["distil", "local", "grpo"]
)
def test_loss_gradient_and_credits_of_packed_rows_are_those_of_padded_ones(
    trunk, objective, rollouts
):
    wanted, gradient = stepped(make_batches(rollouts, token_budget=60), objective, padded)

    found, packed = stepped(make_even_batches(rollouts, token_budget=40), objective, trunk)

    assert found.loss == pytest.approx(wanted.loss, rel=1e-5, abs=1e-6)
    assert (packed - gradient).norm() < 1e-5 * gradient.norm()
    credits = {credit.rollout_id: credit.advantage_T for credit in wanted.credits}
    for credit in found.credits:
        np.testing.assert_allclose(credit.advantage_T, credits[credit.rollout_id], atol=1e-5)
