"""Runs that publish in bfloat16: killed and continued, evaluated and exported."""

from __future__ import annotations

import fcntl
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from preceptor_trainer.run.export import export
from preceptor_trainer.run.watching.metrics_log import read_metrics

from ..e2e.forked import Command, Point
from .small_run import small_run

pytestmark = [pytest.mark.e2e, pytest.mark.gauntlet]

RUN = """
model = { path = "model", publish = "bfloat16" }
data = { train = "rows.jsonl", eval = "held_out.jsonl" }
feedback = { use = "judge.py:judge" }
rollout = { n = 2, max_tokens = 8 }
optim = { prompts_per_step = 2, lr = 1e-4 }
run = { steps = 4, eval_samples = 1, save_every = 2 }
"""


def train(folder: Path, runs: str, kill_at: Point | None = None) -> Path:
    words = ["train", "run.toml", "--set", f"run.folder={runs}"]
    log = folder / f"{runs}.log"
    code = Command(words, log, cwd=folder, kill_at=kill_at).wait(timeout=280)
    assert code == (0 if kill_at is None else -signal.SIGKILL), log.read_text()
    with (folder / runs / "run" / "up.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the services of a killed run end a little later
    return folder / runs / "run"


def numbers(run_dir: Path) -> list[dict[str, Any]]:
    return [
        {k: v for k, v in line.items() if k != "lineage" and not k.startswith("seconds/")}
        for line in read_metrics(run_dir)
    ]


def test_a_killed_run_goes_on_to_the_same_numbers_and_its_export_is_its_last_version(
    tmp_path: Path,
) -> None:
    small_run(tmp_path, RUN)

    undisturbed = train(tmp_path, "undisturbed")
    for point in (("publish", 2), ("update", 4)):
        train(tmp_path, "killed", point)
    killed = train(tmp_path, "killed")
    export(str(killed), tmp_path / "out")

    assert numbers(killed) == numbers(undisturbed)
    assert [step["targets"] for step in read_metrics(killed)] == [4] * 4
    version = load_file(undisturbed / "weights/run/l0/4/model.safetensors")
    exported = load_file(tmp_path / "out/model.safetensors")
    assert all(torch.equal(exported[name], weight) for name, weight in version.items())
    assert {weight.dtype for weight in version.values()} == {torch.bfloat16}
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype="auto").dtype == (
        torch.bfloat16
    )
