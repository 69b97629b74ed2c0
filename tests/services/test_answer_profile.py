"""The profile of the answer path counts CPU where it was spent, in stages that exist."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
BUSY = """
import os, signal, sys, time

def burn():
    end = time.thread_time() + 0.3
    while time.thread_time() < end:
        pass

os.kill(os.getpid(), signal.SIGUSR1)
burn()
os.kill(os.getpid(), signal.SIGUSR2)
"""


@pytest.fixture(scope="module")
def profile() -> ModuleType:
    sys.path.insert(0, str(BENCHMARKS))
    try:
        return importlib.import_module("answer_profile")
    finally:
        sys.path.remove(str(BENCHMARKS))


def test_every_module_of_a_stage_exists(profile: ModuleType) -> None:
    named = [name for names in profile.STAGES.values() for name in names]

    assert [name for name in named if importlib.util.find_spec(name) is None] == []


def test_the_innermost_function_with_a_stage_decides(profile: ModuleType) -> None:
    within = ["numpy:sum", "preceptor_clients.contract.checks:_check_mass"]
    outside = ["preceptor_services.dispatcher.calls:Calls._call", "asyncio.runners:Runner.run"]

    assert profile.stage_of(within + outside) == "checks of answers"
    assert profile.stage_of(outside) == "calls and leases"
    assert profile.stage_of(outside[1:]) == profile.REST
    assert profile.stage_of(["concurrent.futures.thread:_worker"]) == profile.THREADS


def test_shares_are_of_all_seconds_and_small_stages_are_told_together(profile: ModuleType) -> None:
    rows = [(["redis:a"], 0.7), (["aiohttp:b"], 0.285), (["pydantic:c"], 0.01), ([], 0.005)]

    assert profile.shares(rows) == {"broker": 70.0, "HTTP client": 28.5, "all others": 1.5}
    assert profile.shares([]) == {}


@pytest.mark.skipif(sys.platform != "linux", reason="clocks of single threads")
def test_cpu_counts_for_the_function_that_uses_it(tmp_path: Path) -> None:
    (tmp_path / "busy.py").write_text(BUSY)
    command = (sys.executable, str(BENCHMARKS / "cpu_samples.py"), "found.json", "busy")

    subprocess.run(command, cwd=tmp_path, check=True, timeout=60)

    rows = json.loads((tmp_path / "found.json").read_text())
    burnt = sum(seconds for stack, seconds in rows if "__main__:burn" in stack)
    assert burnt > 0.8 * 0.3
    assert burnt > 0.8 * sum(seconds for _, seconds in rows)
