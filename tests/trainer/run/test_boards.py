"""Claims about the boards of extras, with a library of the same calls in their place."""

from __future__ import annotations

import importlib
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from preceptor_trainer.recipes.quickstart import quickstart
from preceptor_trainer.run.boards import Tracker
from preceptor_trainer.run.watching.metrics_log import MetricsLog

LIBRARY = """
calls = []
def init(**options): calls.append(("init", options))
def log(numbers, step): calls.append(("log", step, numbers))
def finish(): calls.append(("finish",))
"""


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module with the calls of trackio that are used."""
    (tmp_path / "trackio.py").write_text(LIBRARY)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "trackio", raising=False)
    return "trackio"


def recorded() -> list[Any]:
    return importlib.import_module("trackio").calls


def test_a_board_gets_every_step_in_groups_and_goes_on_in_the_same_run(
    library: str, tmp_path: Path
) -> None:
    run_dir = tmp_path / "runs" / "mine"

    for first_step in (0, 1):
        make = [lambda: Tracker("trackio", run_dir, "mine", {"steps": 2})]
        with MetricsLog(run_dir, first_step=first_step, boards=make) as log:
            log.write(first_step, "l0", {"loss": 3.5, "reward": 0.5, "entropy": None})
            log.evaluation(first_step + 1, {"pass@1": 0.25})

    [begun, step, held_out, ended, again, *_] = recorded()
    assert begun == again
    assert re.fullmatch("mine-[0-9a-f]{8}", begun[1]["name"])
    assert (begun[1]["resume"], begun[1]["config"]) == ("allow", {"steps": 2})
    assert step == ("log", 1, {"loss/loss": 3.5, "reward/reward": 0.5})
    assert held_out == ("log", 1, {"held_out/pass@1": 0.25})
    assert ended == ("finish",)


@pytest.mark.parametrize(
    ("log", "said"),
    [
        ("wandb", r"log: wandb is not installed; pip install 'preceptor\[wandb\]'"),
        ("mlflow", "log: 'mlflow' is not one of tensorboard, wandb, trackio"),
    ],
)
def test_a_board_that_is_not_there_is_named_when_the_run_is_built(log: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        replace(quickstart(), log=(log,))
