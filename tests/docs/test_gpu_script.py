"""The script for a GPU runs on a CPU at sizes of nothing, so that it does not rot."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

import pytest
import torch
from docs_pages import ROOT


def test_every_part_that_needs_no_service_has_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", [str(ROOT / "benchmarks"), *sys.path])
    gpu = importlib.import_module("gpu")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)

    gpu.main(["--device", "cpu", "--tiny", "--out", str(tmp_path / "gpu.json")])

    torch.set_num_threads(threads)
    result = json.loads((tmp_path / "gpu.json").read_text())
    left_out = {name for name, part in result["parts"].items() if "left out" in part}
    assert left_out == {"scoring", "steps"}
    assert result["parts"]["export"]["largest gap of a log-prob"] < 1e-5
    assert result["parts"]["update"]["tokens/s"] > 0
