"""`preceptor eval` on real services."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner, Result

from preceptor_trainer.commands.eval_file import eval_command

from ..field.small_models import byte_level, model_folder

pytestmark = pytest.mark.e2e

RUN = """
[model]
path = "model"
[data]
train = "train.jsonl"
[feedback]
use = "judge.py:judge"
[rollout]
max_tokens = 6
[optim]
prompts_per_step = 1
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    model_folder(byte_level(), tmp_path / "model")
    (tmp_path / "train.jsonl").write_text('{"prompt": "count"}\n')
    (tmp_path / "judge.py").write_text("def judge(row, response):\n    return row['right']\n")
    (tmp_path / "run.toml").write_text(RUN)
    return tmp_path / "run.toml"


def evaluated(*words: Any) -> Result:
    app = typer.Typer()
    app.command()(eval_command)
    return CliRunner().invoke(app, [str(word) for word in words], env={"COLUMNS": "200"})


def test_rows_of_any_file_are_answered_judged_and_kept(file: Path, tmp_path: Path) -> None:
    rows = [{"prompt": f"say {n}", "right": n % 2} for n in range(4)]
    other = tmp_path / "other.jsonl"
    other.write_text("".join(json.dumps(row) + "\n" for row in rows))
    out = tmp_path / "result.json"

    # A server that runs share takes no whole versions, and is not asked.
    shared = 'rollout.sampler={ url = "http://127.0.0.1:9", kind = "vllm", shared = true }'
    set_ = ["--set", "model.lora.rank=2", "--set", shared]
    shown = evaluated(file, "--data", other, "--samples", 2, "--out", out, *set_)

    assert shown.exit_code == 0, shown.output
    assert "evaluation: 4/4 problems" in shown.output
    assert "before" not in shown.output, "nothing is trained"
    assert "note  rollout.sampler is shared with runs: responses are drawn in" in shown.output
    assert re.search(r"pass@1 +50\.0% +0\.0% to 100\.0%", shown.output)
    kept = json.loads(out.read_text())
    assert kept["pass@1"]["mean"] == 0.5
    assert kept["num_problems"] == 4
    assert kept["successes"] == [[0, 0], [1, 1], [0, 0], [1, 1]]
    lines = out.with_suffix(".samples.jsonl").read_text().splitlines()
    samples = [json.loads(line) for line in lines]
    assert sum(sample["count"] for sample in samples) == 8


def test_a_version_that_is_not_there_is_named(file: Path, tmp_path: Path) -> None:
    shown = evaluated(file, "--weights", tmp_path / "nowhere@3")

    assert shown.exit_code == 2
    assert "nowhere: holds no weights of a run" in shown.stderr


def test_without_rows_to_answer_it_says_which_option_names_them(file: Path) -> None:
    shown = evaluated(file)

    assert shown.exit_code == 2
    assert "--data" in shown.stderr
