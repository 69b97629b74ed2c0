"""The rungs of isolation, and the choice of one."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

from preceptor_services.sandbox.command import PYTHON, Command, CommandLimits, Execution, Sandbox
from preceptor_services.sandbox.isolation import IsolationFailed
from preceptor_services.sandbox.process import ProcessIsolation

_LAUNCH: Final = Path(__file__).with_name("launch.py")


def open_sandbox(rung: str = "auto", *, slot: int = 0) -> Sandbox:
    """A started sandbox on the named rung, or on the strongest that the machine offers.

    Raises:
        ValueError: No rung has this name.
        IsolationFailed: The machine does not offer it.
    """
    if rung not in ("auto", "namespaces"):
        raise ValueError(f"rung: {rung!r} is none of auto, namespaces")
    box = NamespaceSandbox(slot)
    box.start()
    return box


class NamespaceSandbox(ProcessIsolation):
    """Namespaces; one interpreter start for each command."""

    def execute(self, command: Command, limits: CommandLimits | None = None) -> Execution:
        """Runs one command and removes everything that it left."""
        limits = limits or CommandLimits()
        folder = Path(tempfile.mkdtemp(prefix="preceptor-run-"))
        try:
            return _run(command, limits, folder)
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _run(command: Command, limits: CommandLimits, folder: Path) -> Execution:
    for name, contents in command.files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(contents.encode() if isinstance(contents, str) else contents)
        path.chmod(0o755)
    argv = list(command.argv)
    if argv[0] == PYTHON:
        argv = [sys.executable, "-I", "-S", *argv[1:]]
    asked = json.dumps({"argv": argv, "limits": dataclasses.asdict(limits)})
    with tempfile.TemporaryFile() as result, tempfile.TemporaryFile() as stdin:
        stdin.write(command.stdin)
        stdin.seek(0)
        started = time.monotonic()
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(_LAUNCH), asked, str(result.fileno())],
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=(result.fileno(),),
            cwd=folder,
            env={},
            start_new_session=True,
        )
        timed_out = False
        try:
            stdout, stderr = process.communicate(timeout=limits.timeout_s)
        except subprocess.TimeoutExpired:
            timed_out = True
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, 9)
            stdout, stderr = process.communicate()
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu = used.ru_utime + used.ru_stime - before.ru_utime - before.ru_stime
        code = process.returncode
        if code == 125:
            raise IsolationFailed("unshare was refused")
        cut = limits.output_bytes
        result.seek(0)
        written = result.read(cut + 1)
        over = max(len(stdout), len(stderr), len(written)) > cut
        signalled = code < 0
        out_of_cpu = signalled and cpu >= limits.cpu_seconds
        return Execution(
            ended_by="wall_time"
            if timed_out
            else "output"
            if over
            else "cpu_time"
            if out_of_cpu
            else "signal"
            if signalled
            else "exit",
            exit_code=None if signalled or timed_out else code,
            signal=-code if signalled and not timed_out and not out_of_cpu else None,
            stdout=stdout[:cut],
            stderr=stderr[:cut],
            result=written[:cut],
            files={
                name: (folder / name).read_bytes()
                for name in command.keep
                if (folder / name).is_file() and not (folder / name).is_symlink()
            },
            cpu_seconds=cpu,
            wall_seconds=time.monotonic() - started,
            rung="namespaces",
        )
