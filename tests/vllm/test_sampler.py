"""A run whose responses vLLM draws, in training and in evaluation, with each step's weights."""

from __future__ import annotations

import json
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

from preceptor_trainer.run.watching.metrics_log import read_metrics

from .conftest import KEY

pytestmark = [pytest.mark.vllm, pytest.mark.e2e]

RUN = """
model = {{ path = "{model}" }}
data = {{ train = "rows.jsonl", eval = "held_out.jsonl", reference = "answer" }}
feedback = {{ use = "exact" }}
teacher = {{ reference = true, self = {{ template = "compact" }} }}
rollout = {{ n = 4, max_tokens = 8, sampler = {{ url = "{url}", key_file = "vllm.key" }} }}
optim = {{ prompts_per_step = 4, lr = 3e-2 }}
run = {{ steps = 4, eval_samples = 2 }}
objective = {{ use = "distil" }}
"""


def test_a_run_samples_from_vllm_with_the_weights_of_each_step(in_process, policy, tmp_path):
    # Where the service may read weights.
    run_dir = policy.weights_root / "run"
    (tmp_path / "run.toml").write_text(RUN.format(model=policy.folder, url=in_process))
    (tmp_path / "vllm.key").write_text(KEY)
    for name, first, count in (("rows", 0, 8), ("held_out", 8, 2)):
        rows = [{"prompt": f"{i}+1?", "answer": f"{i + 1}"} for i in range(first, first + count)]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    command = [sys.executable, "-m", "preceptor_clients.cli", "train", "run.toml"]
    done = subprocess.run(
        [*command, "--run-dir", str(run_dir)],
        cwd=tmp_path, capture_output=True, text=True, timeout=900, check=False,
    )  # fmt: skip

    assert done.returncode == 0, done.stdout + done.stderr
    steps = read_metrics(run_dir)
    # vLLM draws no rows beyond the vocabulary, to which the untrained head gives some of its mass.
    gaps = [step["behaviour_gap"] for step in steps]
    assert len(gaps) == 4
    assert all(abs(gap) < 0.02 for gap in gaps), gaps
    assert all(abs(gap) < 1e-3 for gap in gaps[2:]), gaps
    # With the weights of an earlier step the gap would be as large as the steps themselves.
    said = [step["sampled_logprob"] for step in steps]
    assert min(abs(after - before) for before, after in pairwise(said)) > 0.1, said
    evaluated = sorted(path.stem for path in Path(run_dir, "evaluations").glob("*.json"))
    assert evaluated == ["after", "before"]
