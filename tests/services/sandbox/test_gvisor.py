"""What ends a run in gVisor: the program, a limit, or `runsc` itself, a script of most tests."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest

from preceptor_services.sandbox.command import Command, CommandLimits
from preceptor_services.sandbox.interpreter import choose
from preceptor_services.sandbox.isolation import IsolationFailed
from preceptor_services.sandbox.ladder import RUNGS, open_sandbox
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
def test_an_ordinary_user_without_user_namespaces_is_told_what_gvisor_needs(
    as_user_script: Path,
) -> None:
    done = subprocess.run(
        [sys.executable, str(as_user_script), "user", "deny", "gvisor", "x"],
        capture_output=True,
        text=True,
        check=False,
    )

    refused = json.loads(done.stdout)["refused"]
    assert refused.startswith("gvisor: runsc failed: ")
    assert refused.endswith(f"(needs {RUNGS['gvisor'].needs})")


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


SPIN = "while True: pass"
IGNORE = "import signal\nfor n in (2, 15, 24): signal.signal(n, signal.SIG_IGN)\n"
WRITE_ON = "import os\nwhile True: os.write({}, b'a' * 65536)"
DAEMON = (
    "import os, time\nif os.fork() == 0:\n    os.setsid()\n    time.sleep(600)\nprint('left')\n"
)
LARGE = "f = open('f', 'wb')\nwhile True: f.write(b'a' * (1 << 20))"


@pytest.mark.gauntlet
@pytest.mark.skipif(not shutil.which("runsc") or os.geteuid() != 0, reason="needs runsc and root")
@pytest.mark.parametrize(
    ("program", "limits", "ended"),
    [
        (SPIN, {"cpu_seconds": 1, "timeout_s": 60}, {"cpu_time"}),
        (IGNORE + SPIN, {"cpu_seconds": 1, "timeout_s": 60}, {"cpu_time", "signal"}),
        ("import time; time.sleep(600)", {"cpu_seconds": 1, "timeout_s": 5}, {"wall_time"}),
        (WRITE_ON.format(1), {"output_bytes": 100_000}, {"output"}),
        (WRITE_ON.format(2), {"output_bytes": 100_000}, {"output"}),
        (LARGE, {"files_mb": 8}, {"files", "exit"}),
        ("bytearray(600 << 20)", {"memory_mb": 256}, {"exit"}),
        ("import os\nwhile True: os.fork()", {"cpu_seconds": 1, "timeout_s": 20}, None),
        (DAEMON, {}, {"exit"}),
    ],
)
def test_x2_a_limit_ends_a_program_in_gvisor_and_all_its_processes(
    program: str, limits: dict[str, float], ended: set[str] | None
) -> None:
    allowed: dict[str, Any] = {"cpu_seconds": 20, "timeout_s": 60, "processes": 16, **limits}
    box = open_sandbox("gvisor", slot=0)
    before = len(psutil.Process().children(recursive=True))

    found = box.execute(Command(files={"main.py": program}), CommandLimits(**allowed))

    assert ended is None or found.ended_by in ended, found
    assert found.exit_code != 0 or program is DAEMON
    assert len(found.stdout) <= allowed.get("output_bytes", 1 << 20)
    assert len(psutil.Process().children(recursive=True)) == before


@pytest.mark.gauntlet
@pytest.mark.skipif(not shutil.which("runsc") or os.geteuid() != 0, reason="needs runsc and root")
def test_x5_runs_in_gvisor_side_by_side_leave_nothing_to_each_other(temporary: Path) -> None:
    before = len(psutil.Process().children(recursive=True))

    def runs(slot: int) -> list[bytes]:
        box = open_sandbox("gvisor", slot=slot)
        program = f"import os\nprint(sorted(os.listdir('.'))[2:], {slot})\nopen('left', 'w')"
        return [box.execute(Command(files={"main.py": program})).stdout for _ in range(63)]

    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(runs, range(8)))

    assert found == [[b"['main.py'] %d\n" % slot] * 63 for slot in range(8)]
    assert list(temporary.iterdir()) == []
    assert len(psutil.Process().children(recursive=True)) == before
