"""Moments in 16 bits are right on average, and moments in main memory are those of the device."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from preceptor_trainer.learner import moments
from preceptor_trainer.learner.learner import Learner, OptimiserConfig
from preceptor_trainer.learner.moments import MOMENTS, HostAdamW, RoundedAdamW, rounded
from preceptor_trainer.model.batch import make_batches
from preceptor_trainer.objectives.distil import DistIL

from ..model.small_rows import qwen3

pytestmark = pytest.mark.usefixtures("one_thread")

SETTINGS: Any = {"lr": 0.01, "betas": (0.9, 0.999), "eps": 1e-8}


@pytest.fixture
def batches(make_labelled):
    """A group of two attempts."""
    draw = np.random.default_rng(0)
    rollouts = [make_labelled(str(i), draw.integers(0, 3, 5 + i).tolist(), seed=i) for i in (0, 1)]
    return make_batches(rollouts, token_budget=100)


def weights(seed: int = 0) -> list[nn.Parameter]:
    draw = torch.Generator().manual_seed(seed)
    return [nn.Parameter(torch.randn(shape, generator=draw)) for shape in ((6, 5), (7,), ())]


def groups(parameters: list[nn.Parameter]) -> list[dict[str, Any]]:
    return [
        {"params": parameters[:1], "weight_decay": 0.1},
        {"params": parameters[1:], "weight_decay": 0.0},
    ]


def give_gradients(parameters: list[nn.Parameter], step: int) -> None:
    for parameter, value in zip(parameters, weights(100 + step), strict=True):
        parameter.grad = value.detach()


def test_a_rounded_value_is_one_of_its_neighbours_and_right_on_average() -> None:
    value = torch.full((1 << 16,), -(1 + 2**-7 / 4))  # a quarter of the way to the next

    found = rounded(value, torch.arange(1 << 16, dtype=torch.int32))

    assert set(found.tolist()) == {-1.0, -(1 + 2**-7)}
    assert found.mean().item() == pytest.approx(value[0].item(), abs=1e-7)
    assert torch.equal(found, found.bfloat16().float())


def test_a_second_moment_fades_that_rounded_to_the_nearest_would_stay() -> None:
    parameter = nn.Parameter(torch.zeros(4096))
    optimiser = RoundedAdamW([{"params": [parameter]}], **SETTINGS)
    parameter.grad = torch.ones(4096)
    optimiser.step()
    first = optimiser.state[parameter]["exp_avg_sq"].float().mean()
    parameter.grad = torch.zeros(4096)

    for _ in range(300):
        optimiser.step()

    found = optimiser.state[parameter]["exp_avg_sq"].float().mean()
    assert (found / first).item() == pytest.approx(0.999**300, rel=0.01)
    assert (first * 0.999).bfloat16() == first.bfloat16()


def test_the_first_step_with_rounded_moments_is_that_of_adamw_also_in_parts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(moments, "_CPU_CHUNK", 12)
    wanted, found = weights(), weights()
    optimisers = (
        torch.optim.AdamW(groups(wanted), **SETTINGS),
        RoundedAdamW(groups(found), **SETTINGS),
    )

    for parameters, optimiser in zip((wanted, found), optimisers, strict=True):
        give_gradients(parameters, 0)
        optimiser.step()

    torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-6)
    assert {optimisers[1].state[p][name].dtype for p in found for name in MOMENTS} == {
        torch.bfloat16
    }


def test_steps_in_main_memory_are_those_of_the_device() -> None:
    wanted, found = weights(), weights()
    plain = torch.optim.AdamW(groups(wanted), **SETTINGS, fused=True)
    host = HostAdamW(groups(found), **SETTINGS)

    for step in range(3):
        for parameters, optimiser in ((wanted, plain), (found, host)):
            give_gradients(parameters, step)
            parameters[2].grad = None  # not every weight takes part
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)

    assert all(torch.equal(own, other) for own, other in zip(found, wanted, strict=True))
    assert all(parameter.grad is None for parameter in found)
    state, other = host.state_dict(), plain.state_dict()
    assert state["param_groups"] == other["param_groups"]
    torch.testing.assert_close(state["state"], other["state"], rtol=0, atol=0)


def test_host_moments_of_a_model_on_the_cpu_are_plain_ones(batches) -> None:
    models = [qwen3(), qwen3()]

    for model, kind in zip(models, ("float32", "host"), strict=True):
        Learner(model, OptimiserConfig(lr=0.01, moments=kind)).step(batches, DistIL())

    wanted, found = (dict(model.named_parameters()) for model in models)
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


def test_a_learner_with_rounded_moments_goes_on_bit_for_bit(batches, tmp_path: Path) -> None:
    config = OptimiserConfig(lr=0.01, moments="bfloat16")
    undisturbed, first = Learner(qwen3(), config), Learner(qwen3(), config)
    for learner in (undisturbed, undisturbed, first):
        learner.step(batches, DistIL())
    torch.save(first.state_dict(), tmp_path / "trainer.pt")
    second = Learner(qwen3(), config)

    second.restore(first.weights(), torch.load(tmp_path / "trainer.pt", weights_only=True))
    second.step(batches, DistIL())

    torch.testing.assert_close(second.weights(), undisturbed.weights(), rtol=0, atol=0)
    found, wanted = (copy.deepcopy(x.state_dict()["optimiser"]) for x in (second, undisturbed))
    torch.testing.assert_close(found["state"], wanted["state"], rtol=0, atol=0)


def test_unknown_moments_are_refused() -> None:
    with pytest.raises(ValueError, match="moments: 'int8' is not one of float32, bfloat16, host"):
        OptimiserConfig(lr=0.01, moments="int8")  # type: ignore[arg-type] # what is tested
