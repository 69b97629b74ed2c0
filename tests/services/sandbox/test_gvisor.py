"""What ends a run in gVisor: the program, a limit, or `runsc` itself, a script of most tests."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from preceptor_services.sandbox.command import Command, CommandLimits
from preceptor_services.sandbox.interpreter import choose
from preceptor_services.sandbox.isolation import IsolationFailed
from preceptor_services.sandbox.ladder import open_sandbox
from preceptor_services.sandbox.rungs.gvisor import GvisorSandbox

RUNSC = """#!/bin/sh
for word in "$@"; do
    case $word in --bundle=*) bundle=${word#--bundle=} ;; esac
done
case "$*" in
    *" run "*) DOES; echo "cannot do it" >&2; exit 128 ;;
esac
"""


def gvisor(folder: Path, does: str) -> GvisorSandbox:
    program = folder / "runsc"
    program.write_text(RUNSC.replace("DOES", does))
    program.chmod(0o755)
    return GvisorSandbox(str(program), choose("", by_another_user=False), 0)


def test_a_failure_of_runsc_is_no_end_of_the_program(tmp_path: Path) -> None:
    box = gvisor(tmp_path, "true")

    with pytest.raises(IsolationFailed, match="runsc failed: cannot do it"):
        box.execute(Command(files={"main.py": "print(1)"}))


def test_a_program_that_has_begun_ends_with_its_own_code(tmp_path: Path) -> None:
    box = gvisor(tmp_path, 'echo >>"$bundle/begun"')

    found = box.execute(Command(files={"main.py": "print(1)"}))

    assert (found.ended_by, found.exit_code) == ("exit", 128)
    assert found.stderr == b"cannot do it\n"


@pytest.mark.skipif(not shutil.which("runsc") or os.geteuid() != 0, reason="needs runsc and root")
def test_x2_memory_is_limited_in_gvisor_in_every_language() -> None:
    # Each round doubles a text: the shell has no limit of its own.
    grows = ("/bin/sh", "-c", "x=a; while :; do x=$x$x; done")
    box = open_sandbox("gvisor", slot=0)
    box.start()
    if box.describe()["limits_together"] == "no":
        pytest.skip("no control group can be made here")

    found = box.execute(
        Command(argv=grows), CommandLimits(memory_mb=64, files_mb=1, cpu_seconds=60, timeout_s=120)
    )

    assert found.ended_by == "memory", found
