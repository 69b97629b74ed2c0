"""gVisor: a kernel of its own in a process, started anew for each run by `runsc`.

The strongest rung that needs no virtual machine, and the slowest: a run costs some hundred
milliseconds. Where the service is an ordinary user, `runsc --rootless` runs it within a user
namespace that has one user: 0, without capabilities, which is the service's outside.
https://gvisor.dev/docs
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
import uuid
from pathlib import Path
from typing import Any, Final

from pydantic import JsonValue

from preceptor_services.sandbox import cold
from preceptor_services.sandbox.cgroups import Group
from preceptor_services.sandbox.command import Command, CommandLimits, Execution, Sandbox
from preceptor_services.sandbox.inside import leftovers
from preceptor_services.sandbox.interpreter import Interpreter, choose
from preceptor_services.sandbox.isolation import (
    IsolationFailed,
    Limits,
    Outcome,
    ProgramRun,
    user_of,
)
from preceptor_services.sandbox.rungs.rung import Rung, RungOptions

_FOLDER: Final = "/tmp"
_MARK: Final = "/begun"
"""Written by the shell before the program: where it is untouched, `runsc` failed and no program."""
_GRACE_S: Final = 30.0
_PATH: Final = "/usr/local/bin:/usr/bin:/bin"
_HELD: Final = 'read -r begin; exec "$@" </dev/null'
"""Begins when its input ends, so that its group is around it before it has any child."""
_OWN_MB: Final = 64
_OWN_TASKS: Final = 1_024
"""What gVisor's kernel may take beside the program, in memory and in threads of the machine."""


class GvisorSandbox:
    """Runs each command in a gVisor of its own."""

    def __init__(self, runsc: str, python: Interpreter, slot: int) -> None:
        self._runsc = runsc
        self._python = python
        self._slot = slot
        self._limits_together = ""
        self._uid = user_of(slot) if os.geteuid() == 0 else 0
        self._version = ""

    def start(self) -> None:
        """Runs one command, unless it has.

        Raises:
            IsolationFailed: `runsc` does not work on this machine.
        """
        if self._version:
            return
        self._version = self._call("--version").stdout.decode("utf-8", "replace").split("\n")[0]
        found = self.execute(Command(argv=("true",)))
        if found.exit_code != 0:
            self._version = ""
            said = found.stderr.decode("utf-8", "replace").strip()[-300:]
            raise IsolationFailed(f"gvisor: runsc does not run here: {said or found.ended_by}")

    def describe(self) -> dict[str, JsonValue]:
        """The walls of this sandbox; `level` is the rung's name."""
        return {
            "level": "gvisor",
            "network": "none",
            "processes": "own kernel",
            "files": "own root",
            "user": "unprivileged",
            "system_calls": "own kernel",
            "python": self._python.version,
            "version": self._version,
            "limits_together": self._limits_together,
        }

    def run(self, attempt: ProgramRun, limits: Limits) -> Outcome:
        """Evaluates an expression.

        Raises:
            IsolationFailed: gVisor failed, not the program.
        """
        command = cold.expression_command(attempt)
        found = self.execute(command, cold.expression_limits(limits))
        return cold.expression_outcome(found, len(attempt.inputs))

    def execute(self, command: Command, limits: CommandLimits | None = None) -> Execution:
        """Runs one command and removes everything that it left.

        Raises:
            IsolationFailed: gVisor failed, not the program.
        """
        limits = limits or CommandLimits()
        bundle = Path(tempfile.mkdtemp(prefix="preceptor-gvisor-"))
        try:
            if os.geteuid() == 0:
                bundle.chmod(0o711)
            folder = _prepare(bundle, command, self._uid)
            mark = _make_mark(bundle)
            untouched = _changed(mark)
            configuration = _bundle(self._python, folder, mark, self._uid, command, limits)
            (bundle / "config.json").write_text(json.dumps(configuration))
            found = self._run(bundle, folder, command, limits)
            if _changed(mark) == untouched:
                said = found.stderr.decode("utf-8", "replace").strip()[-300:]
                raise IsolationFailed(f"gvisor: runsc failed: {said or found.ended_by}")
            return found
        finally:
            with contextlib.suppress(OSError):
                leftovers.empty(str(bundle))
                bundle.rmdir()

    def stop(self) -> None:
        """Nothing stays between runs."""

    def _run(
        self, bundle: Path, folder: Path, command: Command, limits: CommandLimits
    ) -> Execution:
        name = f"preceptor-{uuid.uuid4().hex}"
        arguments = [self._runsc, "--network=none", f"--root={bundle}/state", "--ignore-cgroups"]
        if os.geteuid() != 0:
            arguments.append("--rootless")
        started = time.monotonic()
        with (bundle / "stdout").open("w+b") as stdout, (bundle / "stderr").open("w+b") as stderr:
            process = subprocess.Popen(
                ["/bin/sh", "-c", _HELD, "sh", *arguments, "run", f"--bundle={bundle}", name],
                stdin=subprocess.PIPE,
                stdout=stdout,
                stderr=stderr,
                env={"PATH": os.environ.get("PATH", _PATH)},
                start_new_session=True,
            )
            group = Group.around(process.pid, self._slot)
            self._limits_together = (
                "no" if group is None else f"control group, version {group.version}"
            )
            try:
                _begin(process, group, limits)
                ended_by_us = _wait(process, stdout.fileno(), stderr.fileno(), limits)
                if ended_by_us:
                    kill = [*arguments, "kill", name, "KILL"]
                    subprocess.run(kill, capture_output=True, check=False)
                    _end(process)
            finally:
                self_delete = [*arguments, "delete", "--force", name]
                subprocess.run(self_delete, capture_output=True, check=False, timeout=_GRACE_S)
                over_memory = _leave(group)
        status, wall_s = process.returncode, time.monotonic() - started
        how = cold.ended(status, wall_s, limits, timed_out=ended_by_us == "wall_time")
        if ended_by_us == "output":
            how = "output"
        if how == "exit" and status > 128:
            how, status = ("signal", 128 - status)
        if over_memory:
            how = "memory"
        found = Execution(
            ended_by=how,
            exit_code=status if how == "exit" else None,
            signal=-status if how == "signal" else None,
            stdout=_head(bundle / "stdout", limits.output_bytes),
            stderr=_head(bundle / "stderr", limits.output_bytes),
            result=_head(folder / cold.RESULT, limits.output_bytes),
            files=_kept(folder, command, limits.files_mb << 20),
            wall_seconds=wall_s,
            rung="gvisor",
        )
        return cold.cut(found, limits)

    def _call(self, *arguments: str) -> subprocess.CompletedProcess[bytes]:
        try:
            return subprocess.run(
                [self._runsc, *arguments], capture_output=True, check=True, timeout=_GRACE_S
            )
        except (OSError, subprocess.SubprocessError) as error:
            raise IsolationFailed(f"gvisor: {self._runsc} does not run: {error}") from error


def _prepare(bundle: Path, command: Command, uid: int) -> Path:
    (bundle / "root").mkdir()
    folder = bundle / "folder"
    folder.mkdir(mode=0o700)
    for name, contents in {**command.files, cold.STDIN: command.stdin}.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(contents.encode() if isinstance(contents, str) else contents)
        path.chmod(0o700)
    if os.geteuid() == 0:
        for path in (folder, *folder.rglob("*")):
            os.chown(path, uid, uid)
    return folder


def _make_mark(bundle: Path) -> Path:
    """A file that a program may write, and not remove."""
    mark = bundle / "begun"
    mark.touch()
    mark.chmod(0o622)
    return mark


def _changed(mark: Path) -> tuple[int, int]:
    """What a write changes; nobody can set the time back, not even its owner."""
    stat = mark.stat()
    return stat.st_ctime_ns, stat.st_size


def _bundle(
    python: Interpreter,
    folder: Path,
    mark: Path,
    uid: int,
    command: Command,
    limits: CommandLimits,
) -> dict[str, Any]:
    """An OCI bundle's configuration. https://github.com/opencontainers/runtime-spec"""
    read_only = ["rbind", "ro", "nosuid", "nodev"]
    mounts: list[dict[str, Any]] = [
        {"destination": "/proc", "type": "proc", "source": "proc"},
        {"destination": "/dev", "type": "tmpfs", "source": "tmpfs"},
        {
            "destination": _FOLDER,
            "type": "bind",
            "source": str(folder),
            "options": ["rbind", "rw", "nosuid", "nodev"],
        },
        {"destination": _MARK, "type": "bind", "source": str(mark), "options": ["bind", "rw"]},
    ]
    for path in python.visible:
        real = os.path.realpath(path)
        mounts.append({"destination": path, "type": "bind", "source": real, "options": read_only})
    begun = f"echo >>{_MARK}\n"
    shell = ["/bin/sh", "-c", begun + cold.script(command, limits, python.program)]
    return {
        "ociVersion": "1.0.2",
        "process": {
            "user": {"uid": uid, "gid": uid},
            "args": shell,
            "env": [f"PATH={_PATH}", f"HOME={_FOLDER}", f"TMPDIR={_FOLDER}"],
            "cwd": _FOLDER,
            "noNewPrivileges": True,
            "capabilities": {},
            "rlimits": [
                {"type": "RLIMIT_NPROC", "hard": limits.processes, "soft": limits.processes},
                {"type": "RLIMIT_NOFILE", "hard": 256, "soft": 256},
            ],
        },
        "root": {"path": "root", "readonly": True},
        "mounts": mounts,
        "linux": {
            "namespaces": [{"type": kind} for kind in ("pid", "mount", "ipc", "uts", "network")]
        },
    }


def _begin(process: subprocess.Popen[bytes], group: Group | None, limits: CommandLimits) -> None:
    """Lets the held `runsc` begin, within the limits."""
    assert process.stdin is not None, "it waits for the end of its input"
    size_mb = limits.memory_mb + limits.files_mb + _OWN_MB
    try:
        if group is not None:
            group.limit(memory_bytes=size_mb << 20, tasks=limits.processes + _OWN_TASKS)
    except OSError as error:
        process.kill()
        raise IsolationFailed(f"gvisor: its control group: {error}") from error
    finally:
        process.stdin.close()


def _leave(group: Group | None) -> bool:
    """Removes the group; whether the kernel has ended a process in it for memory."""
    if group is None:
        return False
    over_memory = group.num_killed() > 0
    group.remove()
    return over_memory


def _wait(
    process: subprocess.Popen[bytes], stdout: int, stderr: int, limits: CommandLimits
) -> str | None:
    """Waits for the end; or the limit that was reached before it."""
    deadline = time.monotonic() + limits.timeout_s
    while time.monotonic() < deadline:
        try:
            process.wait(0.05)
            return None
        except subprocess.TimeoutExpired:
            if max(os.fstat(fd).st_size for fd in (stdout, stderr)) > limits.output_bytes:
                return "output"
    return "wall_time"


def _end(process: subprocess.Popen[bytes]) -> None:
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _head(path: Path, size: int) -> bytes:
    """The beginning of a regular file; a byte more than `size`, to see that it is longer."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return b""
    with open(fd, "rb") as file:
        return file.read(size + 1)


def _kept(folder: Path, command: Command, limit: int) -> dict[str, bytes]:
    files: dict[str, bytes] = {}
    for name in command.keep:
        path = folder / name
        # No process is alive that could exchange it; a link anywhere on the way is refused.
        if path.resolve() == folder.resolve() / name and path.is_file():
            data = _head(path, limit)
            if len(data) <= limit:
                files[name] = data
    return files


def _open(slot: int, options: RungOptions) -> Sandbox:
    program = options.program or shutil.which("runsc")
    if not program:
        raise IsolationFailed("gvisor: there is no program runsc on the PATH")
    return GvisorSandbox(program, choose(options.python, by_another_user=os.geteuid() == 0), slot)


RUNG: Final = Rung(
    name="gvisor",
    open=_open,
    own_kernel=True,
    needs="the program runsc, and root or user namespaces for ordinary users",
)
