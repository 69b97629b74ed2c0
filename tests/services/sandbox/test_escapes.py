"""No known way out of a sandbox works, on any rung, as root and as an ordinary user."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest

WALLED = ("namespaces", "bubblewrap", "landlock")
USERS = ("root", "nobody") if os.geteuid() == 0 else ("nobody",)


@cache
def suite(user: str, rungs: tuple[str, ...] = WALLED) -> dict[str, Any]:
    """Every attempt on every rung, one process for each user."""
    folder = Path(__file__).parent
    unwalled = ("process",) if user == USERS[0] and rungs == WALLED else ()
    done = subprocess.run(
        [sys.executable, "-m", "escapes.suite", user, *rungs, *unwalled],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([*filter(None, sys.path), str(folder)])},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("user", USERS)
@pytest.mark.parametrize("rung", WALLED)
def test_x1_no_attempt_crosses_a_wall(rung: str, user: str) -> None:
    found = suite(user)[rung]
    if "refused" in found:
        pytest.skip(found["refused"])

    assert found["crossed"] == {}
    assert found["not_run"] == []
    # As the page of guarantees and that of isolation say.
    assert found["attempts"] == 119


@pytest.mark.gauntlet
@pytest.mark.skipif(not shutil.which("runsc"), reason="needs runsc")
@pytest.mark.parametrize("user", USERS)
def test_x1_no_attempt_crosses_a_wall_of_gvisor(user: str) -> None:
    found = suite(user, ("gvisor",))["gvisor"]

    assert "refused" not in found, found
    assert (found["crossed"], found["not_run"], found["attempts"]) == ({}, [], 119)


def test_the_attempts_do_cross_where_there_is_no_wall() -> None:
    crossed = suite(USERS[0])["process"]["crossed"]

    walls = {found.split(":")[0] for found in crossed.values()}
    assert walls >= {"files", "environment", "network", "processes", "privilege"}
    assert len(crossed) >= 55


def test_this_machine_offers_a_rung_with_walls() -> None:
    offered = [rung for rung in WALLED if "refused" not in suite(USERS[0])[rung]]

    assert offered
