"""Claims about reading a run's file."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from preceptor_trainer.runfile.reading import read_run_file
from preceptor_trainer.runfile.schema import DataSection, FeedbackSection, RunFile


def test_a_file_is_the_same_value_as_one_made_in_python(folder: Path) -> None:
    made = RunFile(
        data=DataSection(train="train.jsonl", eval="dev.jsonl"),
        feedback=FeedbackSection(use=("judge.py:judge",)),
    )

    assert read_run_file(folder / "run.toml") == made


@pytest.mark.parametrize(
    ("setting", "path", "value"),
    [
        ("optim.lr=1e-6", "optim.lr", 1e-6),
        ("objective.use = grpo", "objective.use", "grpo"),
        ('data.train="other.jsonl"', "data.train", "other.jsonl"),
        ("data.train=a/b.jsonl", "data.train", "a/b.jsonl"),
        ("run.eval_ks=[1, 2]", "run.eval_ks", (1, 2)),
        ("teacher.self.ema=0.5", "teacher.self.ema", 0.5),
        ("data.shuffle=false", "data.shuffle", False),
        ('feedback.use=["exact", "regex"]', "feedback.use", ("exact", "regex")),
        ("teacher.self={ema = 1}", "teacher.self.ema", 1.0),
    ],
)
def test_a_setting_replaces_a_key_by_toml_or_a_bare_word(
    folder: Path, setting: str, path: str, value: object
) -> None:
    found: object = read_run_file(folder / "run.toml", [setting])
    for name in path.split("."):
        found = getattr(found, name)

    assert found == value


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("optim.lrr=1", "optim.lrr: is unknown here; did you mean `lr`?"),
        ("optimiser.lr=1", "optimiser: is unknown here; did you mean `optim`?"),
        ("optim.lr=fast", "optim.lr: Input should be a valid number"),
        ("optim.lr=-1", "optim.lr: Input should be greater than 0"),
        ("run.name=a b", "run.name: String should match pattern"),
        ("objective.use=destil", "objective.use: 'destil' is no objective; did you mean `distil`?"),
        ("objective.options.futur=none", "objective.options.futur: is unknown; did you mean"),
        ("objective.options.future=never", "objective.options.future: 'never': input should be"),
        ("objective.options.gamma=2", "gamma must be in (0, 1], not 2"),
        ("data.eval_share=0.5", "data.eval_share: not together with `eval`"),
        ("data.eval_seed=42", "data.eval_seed: belongs to `eval_share`"),
        ("data.format=sciknow", "data.format: 'sciknow' is no format; did you mean `sciknoweval`?"),
        ("run.gateway=http://x", "run.gateway: `gateway` and `key_file` are given together"),
        ("lr=1", "is not SECTION.KEY=VALUE"),
        ("optim.lr", "is not SECTION.KEY=VALUE"),
        ("data.train.x=1", "train is a value and not a table"),
    ],
)
def test_a_wrong_setting_is_refused_with_its_name(folder: Path, setting: str, said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said)):
        read_run_file(folder / "run.toml", [setting])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[data", "is not TOML"),
        ("[run]\nsteps = 3", "data: Field required"),
        ("[data]\ntrain = 1", "data.train: Input should be a valid string"),
    ],
)
def test_a_file_that_is_none_is_refused_with_its_path(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "run.toml"
    path.write_text(text)

    with pytest.raises(ValueError, match=re.escape(said)) as refused:
        read_run_file(path)
    assert str(refused.value).startswith(str(path))


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"run\.toml: No such file"):
        read_run_file(tmp_path / "run.toml")
