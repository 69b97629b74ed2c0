"""`preceptor train run.toml` on a file of tool calls, with a tool: the student reads what came."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from preceptor_trainer.commands.run import train_command
from preceptor_trainer.run.watching.metrics_log import read_metrics

pytestmark = pytest.mark.e2e

RUN = """
[data]
train = "train.jsonl"
format = "tool_use"
format_options = { system = "" }
[feedback.sources.read]
use = "judge.py:judge"
[feedback.sources.calls]
use = "tool_calls"
[[tools]]
use = "executor"
mode = "expression"
[rollout]
n = 2
max_tokens = 120
turn_tokens = 40
max_turns = 2
calls = "turn"
[optim]
prompts_per_step = 2
[run]
steps = 2
"""
JUDGE = """
from preceptor_clients.sdk import Feedback

def judge(row, response):
    read = [turn["content"] for turn in response.turns if turn["role"] == "user"]
    return Feedback(float(len(read)), f"read {read}")
"""


def test_a_run_with_tool_outputs_in_its_rollouts_trains_from_its_file_alone(tmp_path: Path) -> None:
    golden = [{"Action": "double", "Action_Input": "{}"}]
    rows = [{"prompt": f"[{i}]->[{i},{i}]", "golden_answer": golden} for i in range(4)]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "judge.py").write_text(JUDGE)
    (tmp_path / "run.toml").write_text(RUN)
    app = typer.Typer()
    app.command()(train_command)

    shown = CliRunner().invoke(app, [str(tmp_path / "run.toml")], env={"COLUMNS": "200"})

    assert shown.exit_code == 0, shown.output
    assert "may call   python" in shown.output
    lines = read_metrics(tmp_path / "runs" / "run")
    assert len(lines) == 2
    # Each attempt that ended its draft read one output, by which it is judged.
    assert max(line["reward"] for line in lines) > 0.5
    assert all(line["labelled_share"] == 1 for line in lines)
    assert all(line["targets"] == 4 for line in lines)
    worked = json.loads((tmp_path / "runs" / "run" / "worked_rollout.json").read_text())
    told = [token for token in worked["tokens"] if not token["owned"]]
    assert told
    assert not any(token["labelled"] for token in told)
