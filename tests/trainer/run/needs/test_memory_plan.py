"""The plan of a run's memory and disk, against what runs hold."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from preceptor_trainer.kit.placement import CPU, Precision
from preceptor_trainer.learner.learner import Learner, OptimiserConfig
from preceptor_trainer.learner.lora import Lora, add_adapter
from preceptor_trainer.learner.moments import MOMENTS, Moments
from preceptor_trainer.learner.policy import Policy
from preceptor_trainer.model.batch import TrainRollout, make_batches
from preceptor_trainer.model.checkpointing import checkpointed
from preceptor_trainer.model.shape import shape_of
from preceptor_trainer.objectives.grpo import GRPO
from preceptor_trainer.recipes.quickstart import quickstart
from preceptor_trainer.run.config import RunConfig
from preceptor_trainer.run.needs import memory_plan as plans
from preceptor_trainer.run.needs.disk_plan import disk_plan
from preceptor_trainer.run.needs.memory_plan import memory_plan
from preceptor_trainer.run.watching.peak_memory import PeakMemory
from preceptor_trainer.runfile.building import build
from preceptor_trainer.runfile.reading import read_run_file

from ....models.tiny import FAMILIES, tiny_model

ROOT = Path(__file__).parents[4]
SMOLLM2 = ROOT / "models" / "smollm2"
LOW, HIGH = 0.75, 1.35
"""The plan's activations, relative to what a pass keeps; `docs/how-to/memory.md` states it."""
WHOLE_LOW, WHOLE_HIGH = 0.8, 1.25
"""The plan of a phase, relative to what the process held; the page states it too."""


@pytest.fixture(scope="module")
def config() -> RunConfig:
    """The shipped student's run, which learns from rewards."""
    return replace(quickstart(seed=0, held_out=4), objective=GRPO(), experts=(), sampler=None)


@pytest.mark.parametrize("family", FAMILIES)
def test_sizes_without_weights_are_those_of_the_loaded_model(family: str, tmp_path: Path) -> None:
    folder = tiny_model(family, tmp_path)
    model: Any = AutoModelForCausalLM.from_pretrained(folder)

    shape = shape_of(folder)

    assert shape.num_parameters == sum(p.numel() for p in model.parameters())
    assert shape.vocabulary == model.get_output_embeddings().weight.shape[0]
    assert shape.is_tied == FAMILIES[family].tied


def test_an_adapters_size_is_that_of_the_adapter(tmp_path: Path) -> None:
    folder = tiny_model("qwen3", tmp_path)
    model: Any = AutoModelForCausalLM.from_pretrained(folder)
    shape = shape_of(folder)

    add_adapter(model, Lora(rank=4), 0)

    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert shape.num_adapter(4, None) == trained


@pytest.mark.parametrize("checkpointing", [False, True])
def test_planned_activations_are_within_the_stated_band_of_what_a_pass_keeps(
    config: RunConfig, checkpointing: bool
) -> None:
    config = replace(config, checkpointing=checkpointing, token_budget=8 * 128)
    plan = memory_plan(config)
    planned = next(p for p in plan.parts if p.name.startswith("activations")).num_bytes
    if checkpointing:
        # A layer is computed again in the backward pass, when it is alone.
        shape = shape_of(config.model)
        planned = 4 * config.token_budget * (shape.num_layers + 4) * shape.hidden

    kept = kept_bytes(config, plan.longest_prompt)

    assert LOW < planned / kept < HIGH


@pytest.mark.parametrize(
    ("dtype", "publish", "bytes_each"),
    [
        ("float32", "float32", 4),  # shared with the sampler
        ("float32", "bfloat16", 2 + 4),
        ("bfloat16", "float32", 4 + 2),
        ("bfloat16", "bfloat16", 2),  # shared with the sampler
    ],
)
def test_versions_and_the_samplers_weights_are_one_where_their_types_are(
    dtype: Precision, publish: Precision, bytes_each: int
) -> None:
    config = replace(quickstart(seed=0, held_out=4), dtype=dtype, publish=publish)

    parts = memory_plan(config).parts

    held = sum(p.num_bytes for p in parts if "published" in p.name or "sampler's" in p.name)
    assert held == bytes_each * shape_of(config.model).num_parameters


def kept_bytes(config: RunConfig, prompt: int) -> int:
    """What a step of as many tokens as are planned keeps for its backward pass, without weights."""
    policy = Policy(config.model)
    trunk = checkpointed(policy.model, policy.trunk) if config.checkpointing else policy.trunk
    learner = Learner(policy.model, OptimiserConfig(lr=1e-3), trunk=trunk)
    length = config.sampling.max_new_tokens
    rows = config.token_budget // (prompt + length)
    rollouts = [rollout(i, prompt, length, config.rollouts_per_problem) for i in range(rows)]
    weights = {p.untyped_storage().data_ptr() for p in policy.model.parameters()}
    sizes: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        learner.step(make_batches(rollouts, token_budget=config.token_budget), GRPO())
    return sum(sizes.values())


@pytest.mark.parametrize("moments", ["float32", "bfloat16", "host"])
def test_planned_moments_are_those_that_a_step_leaves_in_memory_and_checkpoint(
    config: RunConfig, moments: Moments, tmp_path: Path
) -> None:
    config = replace(config, optimiser=replace(config.optimiser, moments=moments))
    policy = Policy(config.model)
    learner = Learner(policy.model, config.optimiser)
    learner.step(make_batches([rollout(0, 4, 4, 2), rollout(1, 4, 4, 2)], token_budget=32), GRPO())
    state = learner.state_dict()["optimiser"]["state"].values()

    planned = next(p for p in memory_plan(config).parts if p.name == "optimiser's moments")
    disk = disk_plan(config, shape_of(config.model), tmp_path)

    kept = sum(one[name].nbytes for one in state for name in MOMENTS)
    assert planned.num_bytes == kept
    assert disk.state_bytes == kept


def test_moments_in_main_memory_take_none_of_the_gpus(
    config: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_gpu = replace(CPU, device=torch.device("cuda"))
    monkeypatch.setattr(plans, "placement", lambda **_: on_gpu)
    optimisers = {kind: replace(config.optimiser, moments=kind) for kind in ("float32", "host")}

    peaks = {
        kind: memory_plan(replace(config, optimiser=one)).peaks["update"]
        for kind, one in optimisers.items()
    }

    num_parameters = shape_of(config.model).num_parameters
    assert peaks["float32"] - peaks["host"] == 8 * num_parameters


def rollout(index: int, prompt: int, length: int, group_size: int) -> TrainRollout:
    group = index // group_size
    ids: Sequence[int] = [(group + i) % 200 for i in range(prompt)]
    return TrainRollout(
        rollout_id=str(index),
        group=group,
        prompt_ids=ids,
        response_ids=[(index + i) % 200 for i in range(length)],
        reward=float(index % 2),
    )


@pytest.mark.gauntlet
@pytest.mark.skipif(not (SMOLLM2 / "config.json").exists(), reason="examples/smollm2.py makes it")
def test_the_plan_of_a_real_model_is_within_the_stated_band_of_its_run(tmp_path: Path) -> None:
    file = ROOT / "examples" / "multiply" / "run.toml"
    # Packed rows share the beginning of all prompts, which the plan counts for each.
    settings = ["run.steps=3", "run.eval_samples=2", "optim.packing=false"]
    settings += [f"run.folder={tmp_path}"]
    words = [word for pair in settings for word in ("--set", pair)]
    command = [sys.executable, "-m", "preceptor_clients.cli", "train", str(file), *words]
    subprocess.run(command, check=True, timeout=1_800)
    built = build(
        read_run_file(file, settings), file.parent, name="multiply", run_dir=tmp_path / "multiply"
    )

    peaks = memory_plan(built.config).peaks

    found = json.loads((tmp_path / "multiply" / "summary.json").read_text())["peak_bytes"]
    assert WHOLE_LOW < peaks["update"] / found["update"] < WHOLE_HIGH
    assert WHOLE_LOW < peaks["sampling"] / found["sampling"] < WHOLE_HIGH


def test_peaks_are_those_of_each_phase_also_where_two_overlap() -> None:
    held = 5
    peaks = PeakMemory(lambda: held)

    with peaks.during("sampling"):
        with peaks.during("update"):
            held = 9
        held = 7
    with peaks.during("sampling"):
        held = 3

    assert peaks.most == {"update": 9, "sampling": 9}
