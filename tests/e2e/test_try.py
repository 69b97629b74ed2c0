"""`preceptor try` on real services: a run that is in order, and mistakes planted in another."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner, Result

from preceptor_trainer.commands.try_file import try_command
from preceptor_trainer.tasks.programming_by_example.problems import sample_problems

from ..field.small_models import STARTED, byte_level, model_folder

pytestmark = pytest.mark.e2e

OTHER_MODELS = "{{ bos_token }}" + STARTED.replace("<|turn|>", "<|im_start|>").replace(
    "<|done|>", "<|im_end|>"
)
RUN = """
[data]
train = "train.jsonl"
[feedback]
use = "judge.py:judge"
[rollout]
n = 2
max_tokens = 6
[optim]
prompts_per_step = 2
"""


def write(folder: Path, rows: Sequence[dict[str, Any]], judge: str, run: str = RUN) -> Path:
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "judge.py").write_text(f"def judge(row, response):\n    {judge}\n")
    (folder / "run.toml").write_text(run)
    return folder / "run.toml"


def tried(file: Path, *options: str) -> Result:
    app = typer.Typer()
    app.command()(try_command)
    wide = {"COLUMNS": "300"}
    return CliRunner().invoke(app, [str(file), "--rows", "2", *options], env=wide)


def test_a_run_in_order_shows_every_stage_and_no_mistake(tmp_path: Path) -> None:
    problems = sample_problems("train", count=4, seed=3)
    rows = [{"messages": list(p.messages), **p.payload} for p in problems]
    both = RUN.replace('"judge.py:judge"', '["executor", "judge.py:judge"]')
    file = write(tmp_path, rows, "return len(response) % 2", both)

    shown = tried(file, "--set", "rollout.n=4", "--set", "rollout.max_tokens=48")

    assert shown.exit_code == 0, shown.output
    for stage in ("prompt, ", "attempts", "self-teacher reads", "token by token", "loss", "memory"):
        assert stage in shown.output
    assert "mistake" not in shown.output
    assert f"train {file}" in shown.output


@pytest.fixture(scope="module")
def ruined(tmp_path_factory: pytest.TempPathFactory) -> Result:
    """What is shown of a run with every mistake that can be planted at once."""
    folder = tmp_path_factory.mktemp("ruined")
    model = model_folder(byte_level(template=OTHER_MODELS, bos="<|begin|>"), folder / "model")
    rows = [{"prompt": f"{'the cat ' * 20} The key is k{n}.", "answer": f"k{n}"} for n in range(4)]
    file = write(folder, rows, "return 0.0")
    options = ("data.max_prompt=90", "data.long_prompts=cut", f"model.path={model}")
    return tried(file, *(word for option in options for word in ("--set", option)))


def test_a_wrong_template_and_a_judge_that_is_always_zero_are_found(ruined: Result) -> None:
    assert ruined.exit_code == 1, ruined.output
    for planted in (
        "it is the template of another model",
        "begin with two start tokens",
        "has the reward 0: the judge is wrong",
        "the teacher sees nothing that the student does not see",
        "the end token was never met",
    ):
        assert planted in ruined.output


def test_leaked_answers_and_cut_prompts_are_found(ruined: Result) -> None:
    assert ruined.exit_code == 1, ruined.output
    assert "4 of 4 rows hold their own answer (column 'answer')" in ruined.output
    assert "4 of 4 prompts are cut" in ruined.output


def test_held_out_rows_in_the_training_file_are_refused_before_anything_starts(
    tmp_path: Path,
) -> None:
    file = write(tmp_path, [{"prompt": f"count to {n}"} for n in range(4)], "return 0.0")
    (tmp_path / "dev.jsonl").write_text(json.dumps({"prompt": "count to 3"}) + "\n")

    shown = tried(file, "--set", "data.eval=dev.jsonl")

    assert shown.exit_code == 2
    assert "train.jsonl" in shown.output + shown.stderr
    assert 'data.overlap = "drop"' in shown.output + shown.stderr
