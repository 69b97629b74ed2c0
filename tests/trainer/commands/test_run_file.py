"""Claims about `preceptor init`, and `preceptor train FILE` where nothing is started."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from preceptor_trainer.commands.init import init_command
from preceptor_trainer.commands.run import train_command
from preceptor_trainer.commands.run_file import FILE_SETTINGS
from preceptor_trainer.run.config import describe
from preceptor_trainer.run.standing import CONFIG_FILE, Lineage, remember
from preceptor_trainer.runfile import students
from preceptor_trainer.runfile.building import build
from preceptor_trainer.runfile.reading import read_run_file
from preceptor_trainer.runfile.schema import settings_of
from preceptor_trainer.student import STUDENT_DIR

app = typer.Typer()
app.command("init")(init_command)
app.command("train")(train_command)


def run(*words: str | Path) -> tuple[int, str]:
    done = CliRunner().invoke(app, [str(word) for word in words])
    return done.exit_code, " ".join(re.sub(r"[│╭╮╰╯─]", " ", done.output).split())


@pytest.fixture
def example(tmp_path: Path) -> Path:
    assert run("init", tmp_path)[0] == 0
    return tmp_path


def begin(folder: Path) -> Path:
    """Leaves what a trainer leaves that has begun the run of the folder's file."""
    run_file = read_run_file(folder / "run.toml")
    run_dir = folder / "runs" / "run"
    run_dir.mkdir(parents=True)
    built = build(run_file, folder, name="run", run_dir=run_dir)
    (run_dir / CONFIG_FILE).write_text(json.dumps(describe(built.config)))
    (run_dir / FILE_SETTINGS).write_text(json.dumps(settings_of(run_file)))
    remember(run_dir, Lineage(name="l0", parent=None, from_step=0, steps=built.config.steps))
    return run_dir


def test_the_example_is_a_run_that_can_be_built(example: Path) -> None:
    run_file = read_run_file(example / "run.toml")
    built = build(run_file, example, name="run", run_dir=example / "runs" / "run")

    assert built.notes == ()
    assert built.config.model == STUDENT_DIR
    assert built.config.evaluation is not None
    assert (len(built.config.problems(0)), built.config.evaluation.every) == (8, 10)


def test_the_example_names_the_model_that_was_given(tmp_path: Path) -> None:
    assert run("init", tmp_path, "--model", "Qwen/Qwen3-0.6B")[0] == 0

    assert read_run_file(tmp_path / "run.toml").model.path == "Qwen/Qwen3-0.6B"


def test_init_overwrites_nothing(example: Path) -> None:
    (example / "judge.py").write_text("mine")
    (example / "run.toml").unlink()

    code, said = run("init", example)

    assert code == 1
    assert "has judge.py, train.jsonl, dev.jsonl already" in said
    assert (example / "judge.py").read_text() == "mine"
    assert not (example / "run.toml").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--set", "optim.lr=fast"], "optim.lr: Input should be a valid number"),
        (["--set", "data.train=no.jsonl"], "no.jsonl: there is no such file"),
        (["--seed", "1"], "is for a recipe; a file has --set"),
        (["--option", "a=1"], "is for a recipe; a file has --set"),
        (["--gateway", "http://x"], "--gateway and --key-file are given together"),
        (["--extend", "5"], "it is not finished yet"),
    ],
)
def test_a_wrong_word_is_refused_before_anything_starts(
    example: Path, words: list[str], said: str
) -> None:
    code, output = run("train", example / "run.toml", *words)

    assert code in (1, 2)
    assert said in output
    assert not (example / "runs" / "run" / "preceptor.toml").exists()


def test_a_recipe_still_needs_its_place_and_takes_no_set() -> None:
    recipe = "preceptor_trainer.recipes.quickstart:quickstart"

    assert "--run-dir: is needed with a recipe" in run("train", recipe)[1]
    assert "a recipe has --option" in run("train", recipe, "--set", "run.steps=1")[1]


def test_a_run_goes_on_with_the_file_that_it_was_begun_with_alone(example: Path) -> None:
    begin(example)

    code, said = run("train", example / "run.toml", "--set", "teacher.self.ema=0.5")

    assert code == 1
    assert "teacher.self.ema: begun with 0.05, now 0.5" in said
    assert "--set teacher.self.ema=0.5 --set run.name=run-2" in said


def test_a_run_goes_on_with_the_commit_of_its_model_though_the_branch_has_moved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshots = tmp_path / "models--org--tiny" / "snapshots"
    snapshots.mkdir(parents=True)
    for commit in ("old", "new"):
        (snapshots / commit).symlink_to(STUDENT_DIR)
    commits = {"org/tiny": "old", "org/tiny@old": "old"}

    def fetched(name: str) -> Path:
        return snapshots / commits[name]

    monkeypatch.setattr(students, "fetch_model", fetched)
    run("init", tmp_path, "--model", "org/tiny")
    begin(tmp_path)
    commits["org/tiny"] = "new"

    said = run("train", tmp_path / "run.toml", "--extend", "5")[1]

    assert "it is not finished yet" in said, "nothing but the steps was refused"


def test_changed_data_is_another_run(example: Path) -> None:
    begin(example)
    rows = (example / "train.jsonl").read_text().splitlines(keepends=True)
    (example / "train.jsonl").write_text("".join(rows[1:]))

    code, said = run("train", example / "run.toml")

    assert code == 1
    assert "problems.rows.sha256: begun with" in said


def test_what_is_neither_a_file_nor_a_recipe_is_said_to_be_neither() -> None:
    code, said = run("train", "runn")

    assert code == 2
    assert "'runn' is neither a file nor a recipe (module:function)" in said
