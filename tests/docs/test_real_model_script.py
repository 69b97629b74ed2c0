"""The comparison with TRL is of the same run, and refuses what it would measure wrongly."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType

import pytest
import typer
from docs_pages import ROOT

from preceptor_trainer.recipes.quickstart import quickstart
from preceptor_trainer.runfile.building import build
from preceptor_trainer.runfile.reading import read_run_file


@pytest.fixture
def real_model(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.setattr(sys, "path", [str(ROOT / "benchmarks"), *sys.path])
    return importlib.import_module("real_model")


def test_trl_beside_an_example_that_it_does_not_train_on_is_refused(
    real_model: ModuleType, tmp_path: Path
) -> None:
    with pytest.raises(typer.BadParameter, match="multiply and quickstart"):
        real_model.main(example="code", seed=[], trl=["grpo"], runs=tmp_path)


def test_the_file_of_the_quickstarts_world_is_the_quickstarts_run(
    real_model: ModuleType, tmp_path: Path
) -> None:
    wanted = quickstart(seed=1, steps=4)
    settings = real_model.Example("quickstart", tmp_path, [], 2, 0.3).method_pairs("distil")

    file = importlib.import_module("quickstart_world").write_world(tmp_path, seed=1, steps=4)
    built = build(
        read_run_file(file, ["run.seed=1", *settings]), tmp_path, name="q", run_dir=tmp_path
    )

    config, evaluation = built.config, built.config.evaluation
    assert config.objective == wanted.objective
    assert config.optimiser == wanted.optimiser
    assert config.context == wanted.context
    assert config.model == wanted.model
    assert config.sampling == wanted.sampling
    assert [p.messages for p in config.problems(3)] == [p.messages for p in wanted.problems(3)]
    assert evaluation is not None
    assert wanted.evaluation is not None
    assert [p.id for p in evaluation.problems] == [p.id for p in wanted.evaluation.problems]
    assert (evaluation.num_samples, evaluation.ks, evaluation.every) == (16, (1, 8), 2)


def test_the_time_to_a_score_ends_with_the_first_evaluation_that_has_it(
    real_model: ModuleType,
) -> None:
    course = [
        {"steps": 5, "seconds": 10.0, "pass@1": 0.2},
        {"steps": 10, "seconds": 21.0, "pass@1": 0.3},
        {"steps": 15, "seconds": 33.0, "pass@1": 0.35},
    ]

    assert real_model.seconds_until(course, 0.3) == 21.0
    assert real_model.seconds_until(course, 0.4) is None
