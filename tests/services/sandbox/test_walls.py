"""A sandbox in which a wall is missing is not opened, and the wall is named."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from preceptor_services.sandbox import self_test
from preceptor_services.sandbox.interpreter import choose
from preceptor_services.sandbox.isolation import IsolationFailed
from preceptor_services.sandbox.ladder import CHOSEN_BY_ITSELF, RUNGS, open_sandbox
from preceptor_services.sandbox.self_test import check_walls
from preceptor_services.sandbox.warm import Recipe, WarmSandbox

PROGRAM, MAIN = str(self_test._PROGRAM), "__main__"


@pytest.mark.parametrize(
    ("walls", "missing"),
    [
        ({"landlock": True, "seccomp": False}, "system calls"),
        ({"namespaces": True, "seccomp": False}, "system calls"),
        ({"landlock": False, "seccomp": True}, "files"),
        ({"landlock": False, "seccomp": False}, "files"),
    ],
)
def test_x4_a_missing_wall_is_found_and_named(walls: dict[str, Any], missing: str) -> None:
    box = WarmSandbox(Recipe(rung="weak", interpreter=system_interpreter(), **walls))
    with contextlib.ExitStack() as stack:
        box.start()
        stack.callback(box.stop)

        with pytest.raises(IsolationFailed, match=f"rung weak: the wall `{missing}` is missing"):
            check_walls(box)


def test_x4_the_program_that_tries_to_get_out_finds_every_wall_that_is_not_there() -> None:
    with contextlib.ExitStack() as stack:
        world, _ = self_test._make_world(stack, may_be_user_0=False)
        reading, writing = os.pipe()
        stack.callback(os.close, reading)
        program = (
            f"import os, runpy; os.dup2({writing}, 3); runpy.run_path({PROGRAM!r}, {{}}, {MAIN!r})"
        )
        subprocess.run(
            [sys.executable, "-c", program],
            input=json.dumps(world).encode(),
            pass_fds=(writing,),
            timeout=60,
            check=False,
        )
        os.close(writing)
        found = os.read(reading, 1 << 20)

    walls = {json.loads(line)[0] for line in found.splitlines()}
    # Limits are none where none are set.
    assert walls >= self_test.ADVICE.keys() - {"limits"}


def test_a_rung_whose_program_is_not_there_is_refused_and_leaves_nothing() -> None:
    recipe = Recipe(rung="gone", wrapper=("/nowhere/bwrap",), interpreter=system_interpreter())
    box = WarmSandbox(recipe)

    with pytest.raises(IsolationFailed, match=r"gone: cannot start: .*nowhere"):
        box.start()

    assert box._folder is None


@pytest.mark.parametrize("user", ["user", "same"])
def test_x4_a_machine_that_offers_no_walls_is_refused_with_what_each_rung_needs(
    as_user_script: Path, user: str
) -> None:
    done = subprocess.run(
        [sys.executable, str(as_user_script), user, "deny-all", "auto", "x"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    refused = json.loads(done.stdout)["refused"]
    assert refused.startswith("this machine offers no isolation for untrusted programs; ")
    for rung in CHOSEN_BY_ITSELF:
        assert f"{rung}: " in refused
        assert RUNGS[rung].needs in refused


def test_the_rung_without_walls_is_never_chosen_by_itself() -> None:
    assert "process" in RUNGS
    assert all(RUNGS[name].has_walls for name in CHOSEN_BY_ITSELF)


def test_an_unknown_rung_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="rung: 'cage' is none of auto, namespaces, bubblewrap"):
        open_sandbox("cage")


def system_interpreter() -> Any:
    return choose("", by_another_user=True)
