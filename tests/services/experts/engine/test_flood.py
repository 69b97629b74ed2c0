"""A real expert under more requests than it could hold at once."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARK = Path(__file__).parents[4] / "benchmarks" / "scoring_engine.py"


@pytest.mark.gauntlet
def test_64_requests_of_4000_tokens_leave_an_expert_inside_its_budget(tmp_path: Path) -> None:
    out = tmp_path / "flood.json"

    subprocess.run(
        [sys.executable, str(BENCHMARK), "--flood", "64", "--memory-mb", "512", "--out", str(out)],
        check=True,
    )

    found = json.loads(out.read_text())["flood"]
    assert found["memory grew by, MiB"] < found["declared budget, MiB"]
