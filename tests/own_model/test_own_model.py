"""An own model, own data and an own judge, from an empty folder, by what the page says."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from . import tiny

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "train-your-own-model.md"
FEW = ("rollout.n=2", "rollout.max_tokens=12", "optim.prompts_per_step=2", "run.eval_samples=2")


def on_the_page(name: str) -> str:
    found = re.search(
        rf'^```\w+ title="{re.escape(name)}"\n(.*?)^```$', PAGE.read_text(), re.M | re.S
    )
    assert found is not None, name
    return found[1]


def train(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "preceptor_clients.cli", "train", "run.toml", *words]
    return subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=280, check=False
    )


def settings(*pairs: str) -> list[str]:
    return [word for pair in (*FEW, *pairs) for word in ("--set", pair)]


def write_rows(path: Path, first: int, count: int) -> None:
    row = json.loads(on_the_page("train.jsonl"))
    rows = [
        row | {"prompt": f"What is {i} * 12?", "answer": 12 * i}
        for i in range(first, first + count)
    ]
    path.write_text("".join(json.dumps(one) + "\n" for one in rows))


def test_three_files_of_the_page_and_one_command_train_a_model(tmp_path: Path) -> None:
    tiny.llama(tmp_path / "model")
    for name in ("run.toml", "judge.py"):
        (tmp_path / name).write_text(on_the_page(name))
    write_rows(tmp_path / "train.jsonl", 0, 8)
    write_rows(tmp_path / "dev.jsonl", 20, 2)

    done = train(tmp_path, *settings("run.steps=2"))

    assert done.returncode == 0, done.stdout + done.stderr
    written = on_the_page("run.toml") + on_the_page("judge.py")
    assert len([line for line in written.splitlines() if line.strip()]) <= 15
    run = tmp_path / "runs" / "run"
    summary = json.loads((run / "summary.json").read_text())
    assert (summary["steps"], summary["after"]["num_problems"], summary["after"]["ungraded"]) == (
        2,
        2,
        0,
    )
    assert summary["targets"] == summary["rollouts"] == 8, "every attempt failed, and was taught"
    assert (run / "report.html").exists()
    assert "asks       self-teacher, judge, on this machine" in done.stdout
