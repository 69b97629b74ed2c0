"""Ctrl-C in `preceptor compare` and `preceptor solve` says what was kept and how to go on."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner, Result

from preceptor_trainer.experiments.compare.command import compare_command
from preceptor_trainer.experiments.compare.services import RUNS
from preceptor_trainer.experiments.solve import command as solve
from preceptor_trainer.experiments.solve.base_rates import BASE_RATES

COMPARISON = """
from dataclasses import replace
from preceptor_trainer.recipes.comparisons import fast

def interrupted(trial):
    raise KeyboardInterrupt

def made(folder):
    found = fast(folder)
    methods = tuple(replace(method, recipe=interrupted) for method in found.methods)
    return replace(found, methods=methods)
"""


app = typer.Typer()
app.command("compare")(compare_command)
app.add_typer(solve.app, name="solve")


class Interrupted:
    """A deployment whose start is interrupted."""

    def __init__(self, *given: Any) -> None:
        raise KeyboardInterrupt


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")

    def run(*words: str) -> Result:
        monkeypatch.setattr(sys, "argv", ["preceptor", *words])
        return CliRunner().invoke(app, list(words), catch_exceptions=False)

    return run


def test_an_interrupted_comparison_says_what_was_kept_and_how_to_go_on(
    tmp_path: Path, run: Any
) -> None:
    (tmp_path / "interrupted_one.py").write_text(COMPARISON)
    for place in (tmp_path / "out" / "cells", tmp_path / "out" / RUNS / "a"):
        place.mkdir(parents=True)
    (tmp_path / "out" / "cells" / "final-a.json").write_text("{}")

    result = run("compare", "interrupted_one:made", "--out", "out")

    assert result.exit_code == 130
    assert "interrupted: out keeps 1 finished run; the one that was running goes on" in (
        result.stderr
    )
    assert "preceptor compare interrupted_one:made --out out" in result.stderr
    assert "Traceback" not in result.output


def test_an_interrupted_measurement_says_what_was_kept_and_how_to_go_on(
    tmp_path: Path, run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(solve, "LocalDeployment", Interrupted)

    nothing = run("solve", "base-rates", "--out", "out")
    (tmp_path / "out" / BASE_RATES).write_text("{}")
    (tmp_path / "out" / "cells").mkdir()
    (tmp_path / "out" / "cells" / "best-of-k-0.json").write_text("[]")
    some = run("solve", "base-rates", "--out", "out")

    assert (nothing.exit_code, some.exit_code) == (130, 130)
    assert "interrupted: out has nothing finished yet" in nothing.stderr
    assert "preceptor solve base-rates --out out" in nothing.stderr
    assert "kept are the base rates in out/base_rates.json and 1 finished result" in some.stderr
