"""A folder with a run's file, its data and its judge."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from preceptor_trainer.runfile.building import Built, build
from preceptor_trainer.runfile.reading import read_run_file

JUDGE = "def judge(row, response):\n    return response == row['answer']\n"
FILE = """
[data]
train = "train.jsonl"
eval = "dev.jsonl"
[feedback]
use = "judge.py:judge"
"""
BuildFile = Callable[..., Built]


def write_rows(path: Path, count: int, **columns: Any) -> None:
    rows = [{"prompt": f"{path.stem} {i}", "answer": str(i), **columns} for i in range(count)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "judge.py").write_text(JUDGE)
    write_rows(tmp_path / "train.jsonl", 12)
    write_rows(tmp_path / "dev.jsonl", 3)
    (tmp_path / "run.toml").write_text(FILE)
    return tmp_path


@pytest.fixture
def build_file(folder: Path) -> BuildFile:
    """Builds the folder's file with `--set` pairs."""

    def built(*settings: str, text: str | None = None) -> Built:
        path = folder / "run.toml"
        if text is not None:
            path.write_text(text)
        run_file = read_run_file(path, settings)
        return build(run_file, folder, name="mine", run_dir=folder / "runs" / "mine")

    return built
