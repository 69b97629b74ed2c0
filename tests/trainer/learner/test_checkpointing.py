"""A step that keeps the inputs of layers alone is the step that keeps everything."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from preceptor_trainer.learner.learner import Learner, OptimiserConfig
from preceptor_trainer.model.batch import make_batches
from preceptor_trainer.model.checkpointing import checkpointed
from preceptor_trainer.model.packed import packed_contexts
from preceptor_trainer.model.trunk import padded, shared_contexts
from preceptor_trainer.objectives.distil import DistIL

from ..model.small_rows import qwen3


@pytest.fixture
def batches(make_labelled):
    """Two groups of two attempts."""
    draw = np.random.default_rng(0)
    rollouts = [
        make_labelled(
            f"{group}-{i}",
            draw.integers(0, 3, 5 + i).tolist(),
            seed=i,
            group=group,
            prompt_ids=[1, 2, 0, 1],
            reward=float(i),
        )
        for group in range(2)
        for i in range(2)
    ]
    return make_batches(rollouts, token_budget=100)


def stepped(own, trunk, batches):
    """The result of a step, and the numbers that its forward passes kept for the backward ones."""
    kept = 0

    def count(tensor):
        nonlocal kept
        kept += tensor.numel()
        return tensor

    learner = Learner(own, OptimiserConfig(lr=1e-3, max_grad_norm=None), trunk=trunk)
    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        result = learner.step(batches, DistIL())
    return result, kept


@pytest.mark.parametrize("trunk", [padded, packed_contexts, shared_contexts])
def test_loss_and_weights_after_a_step_are_those_without_checkpointing(trunk, batches):
    plain, lean = qwen3(), qwen3()
    wanted, _ = stepped(plain, trunk, batches)

    found, _ = stepped(lean, checkpointed(lean, trunk), batches)

    assert found.loss == pytest.approx(wanted.loss, rel=1e-5)
    assert found.grad_norm == pytest.approx(wanted.grad_norm, rel=1e-5)
    pairs = zip(lean.parameters(), plain.parameters(), strict=True)
    assert max((a - b).abs().max().item() for a, b in pairs) < 1e-5


def test_gradients_of_whole_rows_are_the_same_to_the_last_bit_and_less_is_kept(batches):
    plain, lean = qwen3(), qwen3()
    wanted, everything = stepped(plain, padded, batches)

    found, inputs = stepped(lean, checkpointed(lean, padded), batches)

    assert found.grad_norm == wanted.grad_norm
    assert inputs < 0.5 * everything


def test_a_model_without_such_layers_is_refused():
    with pytest.raises(ValueError, match="checkpointing: Linear has no layers"):
        checkpointed(nn.Linear(2, 2), padded)
