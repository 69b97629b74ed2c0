"""A run with an adapter and a self-teacher, its continuation, its evaluation and its export."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM

from preceptor_trainer.run.export import export
from preceptor_trainer.run.watching.metrics_log import read_metrics

from ..e2e.forked import Command
from .small_run import small_run

pytestmark = [pytest.mark.e2e, pytest.mark.gauntlet]

RUN = """
model = { path = "model", lora = { rank = 2 } }
data = { train = "rows.jsonl", eval = "held_out.jsonl" }
feedback = { use = "judge.py:judge" }
rollout = { n = 2, max_tokens = 8 }
optim = { prompts_per_step = 2, lr = 1e-2 }
run = { steps = 2, eval_samples = 1, save_every = 1 }
"""


def preceptor(folder: Path, *words: str) -> str:
    log = folder / "said.log"
    code = Command(words, log, cwd=folder).wait(timeout=280)
    assert code == 0, log.read_text()
    return log.read_text()


def test_each_step_publishes_the_adapter_alone_and_everybody_reads_it(tmp_path: Path) -> None:
    small_run(tmp_path, RUN)
    run_dir = tmp_path / "runs" / "run"

    preceptor(tmp_path, "train", "run.toml")
    preceptor(tmp_path, "train", "run.toml", "--extend", "2")
    preceptor(tmp_path, "eval", "run.toml", "--weights", "runs/run", "--out", "result.json")
    export(str(run_dir), tmp_path / "out")

    steps = read_metrics(run_dir)
    whole = (run_dir / "weights/run/l0/0/model.safetensors").stat().st_size
    assert [step["targets"] for step in steps] == [4] * 4
    assert max(step["published_bytes"] for step in steps) < 0.2 * whole
    last = run_dir / "weights/run/l1/4"
    assert {path.name for path in last.iterdir()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
    }
    assert json.loads((tmp_path / "result.json").read_text())["num_problems"] == 2
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "out").config.vocab_size > 0
