"""A run whose file names model and data as on the hub."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from . import hub, tiny

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.gauntlet]

FILE = """
[model]
path = "org/tiny@v1"
[data]
train = "org/products"
eval_split = "test"
[feedback]
use = "numeric"
[rollout]
n = 2
max_tokens = 12
[optim]
prompts_per_step = 2
[run]
steps = 1
eval_samples = 2
"""


def test_model_and_data_are_named_alone(tmp_path: Path) -> None:
    tiny.llama(tmp_path / "served" / "model")
    data = tmp_path / "served" / "data"
    data.mkdir()
    for split, first in (("train", 0), ("test", 20)):
        rows = [{"prompt": f"{i} * 2?", "answer": 2 * i} for i in range(first, first + 4)]
        (data / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "run.toml").write_text(FILE)
    repos = {
        "models/org/tiny": {"v1": tmp_path / "served" / "model"},
        "datasets/org/products": {"main": data},
    }

    with hub.serving(repos) as url:
        home = {"HF_ENDPOINT": url, "HF_HOME": str(tmp_path / "home")}
        command = [sys.executable, "-m", "preceptor_clients.cli", "train", "run.toml"]
        subprocess.run(command, cwd=tmp_path, env=os.environ | home, check=True, timeout=280)

    summary = json.loads((tmp_path / "runs" / "run" / "summary.json").read_text())
    assert summary["config"]["model"].endswith(hub.sha(tmp_path / "served" / "model"))
    assert summary["config"]["problems"]["rows"]["source"] == "org/products"
    assert summary["after"]["num_problems"] == 4
