"""A run whose responses vLLM draws, in training and in evaluation, with each step's weights."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest

from .conftest import train

pytestmark = [pytest.mark.vllm, pytest.mark.e2e]


def test_a_run_samples_from_vllm_with_the_weights_of_each_step(in_process, policy, tmp_path):
    # Where the service may read weights.
    run_dir = policy.weights_root / "run"
    # On a CPU the engine stops and keeps its memory.
    sampler = {"url": in_process, "key_file": "vllm.key", "sleeps": True}

    steps = train(policy, sampler, tmp_path, run_dir, steps=4)

    # vLLM draws no rows beyond the vocabulary, to which the untrained head gives some of its mass.
    gaps = [step["behaviour_gap"] for step in steps]
    assert len(gaps) == 4
    assert all(abs(gap) < 0.02 for gap in gaps), gaps
    assert all(abs(gap) < 1e-3 for gap in gaps[2:]), gaps
    # With the weights of an earlier step the gap would be as large as the steps themselves.
    said = [step["sampled_logprob"] for step in steps]
    assert min(abs(after - before) for before, after in pairwise(said)) > 0.1, said
    assert all({"seconds/wake", "seconds/sleep"} <= step.keys() for step in steps)
    evaluated = sorted(path.stem for path in Path(run_dir, "evaluations").glob("*.json"))
    assert evaluated == ["after", "before"]
