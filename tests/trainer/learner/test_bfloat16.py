"""bfloat16 passes over float32 weights, and bfloat16 moments, follow a run in float32."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from preceptor_trainer.kit.placement import CPU, placement
from preceptor_trainer.learner.learner import Learner, OptimiserConfig
from preceptor_trainer.model.batch import make_batches
from preceptor_trainer.objectives.distil import DistIL

STEPS = 50
BAND = 0.015
"""Largest gap of a step's loss, as a share of what the run gains."""
MOMENTS_BAND = 0.002
"""The same for moments in bfloat16."""


def model(dtype: torch.dtype) -> Any:
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=31,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        max_position_embeddings=64,
        initializer_range=0.3,
    )
    return Qwen3ForCausalLM(config).eval().to(dtype)


@pytest.fixture
def batches(make_labelled):
    """Four groups of two attempts."""
    draw = np.random.default_rng(0)
    rollouts = [
        make_labelled(
            f"{group}-{i}",
            draw.integers(0, 3, 8).tolist(),
            seed=2 * group + i,
            group=group,
            prompt_ids=[1, 2, 0, group % 3],
            reward=float(i),
        )
        for group in range(4)
        for i in range(2)
    ]
    return make_batches(rollouts, token_budget=200)


def losses(batches, *, dtype=torch.float32, place=CPU, moments="float32"):
    """The local loss at each step."""
    config = OptimiserConfig(lr=1e-4, moments=moments)
    learner = Learner(model(dtype), config, place=place)
    objective = DistIL(future="none")
    return np.array([learner.step(batches, objective).loss for _ in range(STEPS)])


def test_passes_or_moments_in_bfloat16_follow_float32_and_weights_of_16_bits_do_not(
    batches,
):
    wanted = losses(batches)

    found = losses(batches, place=placement(device="cpu", dtype="bfloat16"))
    moments = losses(batches, moments="bfloat16")
    rounded = losses(batches, dtype=torch.bfloat16)

    gain = wanted[0] - wanted[-1]
    assert np.abs(found - wanted).max() < BAND * gain
    assert 0 < np.abs(moments - wanted).max() < MOMENTS_BAND * gain
    assert np.abs(rounded - wanted).max() > 10 * BAND * gain
