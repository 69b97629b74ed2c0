"""The comparison on a real model refuses what it would measure wrongly."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest
import typer
from docs_pages import ROOT


def test_trl_beside_an_example_that_it_does_not_train_on_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", [str(ROOT / "benchmarks"), *sys.path])
    real_model = importlib.import_module("real_model")

    with pytest.raises(typer.BadParameter, match="multiply alone"):
        real_model.main(example="code", seed=[], trl=["grpo"], runs=tmp_path)
