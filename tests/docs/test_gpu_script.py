"""The script for a GPU runs on a CPU at sizes of nothing, so that it does not rot."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from docs_pages import ROOT


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script."""
    monkeypatch.setattr(sys, "path", [str(ROOT / "benchmarks"), *sys.path])
    return importlib.import_module("gpu")


def test_every_part_that_needs_no_service_has_figures(gpu: ModuleType, tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)

    gpu.main(["--device", "cpu", "--tiny", "--out", str(tmp_path / "gpu.json")])

    torch.set_num_threads(threads)
    result = json.loads((tmp_path / "gpu.json").read_text())
    left_out = {name for name, part in result["parts"].items() if "left out" in part}
    assert left_out == {"scoring", "steps", "trl"}
    assert result["parts"]["export"]["largest gap of a log-prob"] < 1e-5
    assert result["parts"]["export"]["largest change by the run"] > 1e-3
    assert result["parts"]["update"]["tokens/s"] > 0


@pytest.mark.gauntlet
def test_trls_trainer_takes_an_update_beside_ours() -> None:
    words = [sys.executable, str(ROOT / "benchmarks" / "gpu.py"), "--device", "cpu", "--tiny"]

    done = subprocess.run([*words, "--only", "trl"], capture_output=True, check=True, timeout=300)

    part = json.loads(done.stdout.splitlines()[-1])
    assert part["tokens/s"] > 0
    assert len(part["seconds of each"]) == 3


def test_pauses_between_steps_count_as_idle_and_the_start_and_the_end_do_not(
    gpu: ModuleType,
) -> None:
    assert gpu.busy_share([0.0, 0.0, 1.0, 0.0, 0.5, 0.5, 0.0]) == pytest.approx(0.5)
    assert gpu.busy_share([0.0, 0.0]) is None
