"""What overloads a sandbox ends in time, leaves no process, and no memory with the service."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

LATEST_S = 0.5
OF_OUTPUT = ("600 MB", "1 GB of output", "1 GB of errors", "1 GB of results")


def overloaded(rung: str, num_rounds: int, *kinds: str) -> dict[str, Any]:
    """What `overloads.py` reports of a rung."""
    folder = Path(__file__).parent
    done = subprocess.run(
        [sys.executable, "-m", "overloads", rung, str(num_rounds), *kinds],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([*filter(None, sys.path), str(folder)])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    if "refused" in found:
        pytest.skip(found["refused"])
    return found


def assert_flat(found: dict[str, Any]) -> None:
    """Memory after many overloads is that after a few, but for two outputs of one run.

    The interpreter takes memory by the MiB, and keeps what is free; a run that left its output
    behind would add one for each of some dozen runs.
    """
    allowed = 2 * found["output_mb"]
    for process, before in found["before_mb"].items():
        assert found["after_mb"][process] <= before + allowed, found
    assert found["peak_mb"]["after"] <= found["peak_mb"]["warm-up"] + allowed, found


def test_x2_memory_of_the_service_stays_flat_whatever_programs_write() -> None:
    found = overloaded("namespaces", 6, *OF_OUTPUT)

    assert found["wrong"] == []
    assert_flat(found)


@pytest.mark.gauntlet
@pytest.mark.parametrize("rung", ["namespaces", "bubblewrap", "landlock", "gvisor"])
def test_x2_every_overload_ends_in_time_and_memory_stays_flat(rung: str) -> None:
    if rung == "gvisor" and not (shutil.which("runsc") and os.geteuid() == 0):
        pytest.skip("needs runsc and root, whose control groups limit memory")

    found = overloaded(rung, 12)

    assert found["wrong"] == []
    assert_flat(found)
    late = {k: s for k, s in found["overrun_s"].items() if s > LATEST_S + found["end_s"]}
    assert late == {}, found
