"""The service's side of a sandbox that stays warm: starts its keeper, sends it one run at a time.

The keeper (`inside/keeper.py`) forks a child for each run and kills what is left of it. Requests
and results do not pass through it: the child reads its request from a file in memory, and writes to
pipes that are read here, each up to its limit.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, NoReturn, cast

from pydantic import JsonValue

from preceptor_services.sandbox.cgroups import Group
from preceptor_services.sandbox.command import (
    Command,
    CommandLimits,
    EndedBy,
    Execution,
    ended_by_signal,
)
from preceptor_services.sandbox.expressions import end_of, outcome
from preceptor_services.sandbox.inside import leftovers
from preceptor_services.sandbox.interpreter import Interpreter
from preceptor_services.sandbox.isolation import (
    MAX_SLOTS,
    IsolationFailed,
    Limits,
    Outcome,
    ProgramRun,
    user_of,
)

_START_S: Final = 60.0
_GRACE_S: Final = 30.0
"""Extra time for a reply beyond the run's own limit, for a busy machine."""
_LARGEST_MESSAGE: Final = 65_536
_FITS_A_PIPE: Final = 4096
"""The kernel gives a page to each pipe, also to a user with too many."""
_SERVICES: Final = Path(__file__).parents[2]
_START: Final = (
    "import sys; sys.path.insert(0, sys.argv[1]); "
    "from preceptor_services.sandbox.inside.keeper import main; main()"
)
_ENVIRONMENT: Final = {"PYTHONHASHSEED": "0", "LC_ALL": "C.UTF-8"}
"""Fixed, so that sets of text have one order; the service's own is not handed on."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a rung starts its keeper, and which walls the keeper enters."""

    rung: str
    namespaces: bool = False
    landlock: bool = False
    seccomp: bool = True
    wrapper: tuple[str, ...] = ()
    """Program and arguments that start the keeper behind walls of their own."""
    keeper_folder: str = str(_SERVICES)
    """Where the keeper finds its modules."""
    folder: str | None = None
    """The private folder in the sandbox, emptied after each run; None for one of this machine."""
    starts_as_slot: bool = False
    """Whether root starts the wrapper as the slot's user: what a program of root's own user may do
    is decided by that user, however few capabilities it has."""
    empty: str | None = None
    """An empty folder in the sandbox, as the root of expressions."""
    interpreter: Interpreter


class WarmSandbox:
    """One keeper; where the service runs as root, `slot` gives it its own user."""

    def __init__(self, recipe: Recipe, slot: int = 0) -> None:
        if not 0 <= slot < MAX_SLOTS:
            raise ValueError(f"slot: {slot} is outside 0..{MAX_SLOTS - 1}")
        self._recipe = recipe
        self._uid = user_of(slot)
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._folder: str | None = None
        self._description: dict[str, JsonValue] = {}
        self._slot = slot
        self._group: Group | None = None

    @property
    def pid(self) -> int | None:
        """Process id of the keeper's outermost process."""
        return None if self._process is None else self._process.pid

    def start(self) -> None:
        """Starts the keeper unless it runs, and waits until its walls are there.

        Raises:
            IsolationFailed: A wall is refused on this machine.
        """
        if self._process is not None and self._process.poll() is None:
            return
        self.stop()
        self._folder = tempfile.mkdtemp(prefix="preceptor-sandbox-")
        os.chmod(self._folder, 0o711)  # the program's user passes through it to its own folder
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._control = ours
        with theirs:
            try:
                self._process = subprocess.Popen(
                    [*self._recipe.wrapper, *self._keeper()],
                    stdin=theirs.fileno(),
                    stdout=subprocess.DEVNULL,
                    env=_ENVIRONMENT,
                    cwd="/",
                    start_new_session=True,
                    user=self._starts_as,
                    group=self._starts_as,
                    extra_groups=None if self._starts_as is None else [],
                )
            except (OSError, subprocess.SubprocessError) as error:
                self.stop()
                raise IsolationFailed(f"{self._recipe.rung}: cannot start: {error}") from error
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self._send(self._settings(probe.getsockname()[1]))
            described, _ = self._receive(_START_S)
        if "refused" in described:
            self.stop()
            raise IsolationFailed(f"{self._recipe.rung}: {described['refused']}")
        assert self._process is not None
        self._group = Group.around(self._process.pid, self._slot)
        self._description = {
            "level": self._recipe.rung,
            **described,
            "limits_together": "by the keeper"
            if self._group is None
            else f"control group, version {self._group.version}",
            "python": self._recipe.interpreter.version,
        }

    def describe(self) -> dict[str, JsonValue]:
        """The walls of this sandbox; `level` is the rung's name."""
        return dict(self._description)

    def run(self, attempt: ProgramRun, limits: Limits) -> Outcome:
        """Evaluates an expression, which sees no files.

        Raises:
            IsolationFailed: The keeper ended or did not answer; the next call starts a new one.
        """
        request = {
            "program": attempt.program,
            "entry": attempt.entry,
            "inputs": [json.dumps(value) for value in attempt.inputs],
        }
        asked: dict[str, Any] = {
            "mode": "expression",
            "keep": [],
            "limits": {**asdict(limits), **_EXPRESSION},
        }
        (result,), reply = self._ask(asked, _request(request), None, 1, limits.output_bytes)
        return outcome(end_of(_command_end(reply), reply["status"]), result, len(attempt.inputs))

    def execute(self, command: Command, limits: CommandLimits | None = None) -> Execution:
        """Runs one command and removes everything that it left.

        Raises:
            IsolationFailed: The keeper ended or did not answer; the next call starts a new one.
        """
        limits = limits or CommandLimits()
        asked = {"mode": "command", "keep": list(command.keep), "limits": asdict(limits)}
        request = _request({"argv": list(command.argv)}, command.files)
        outputs, reply = self._ask(asked, request, command.stdin, 3, limits.output_bytes)
        ended_by, status = _command_end(reply), reply["status"]
        return Execution(
            ended_by=ended_by,
            exit_code=status if ended_by == "exit" else None,
            signal=-status if ended_by == "signal" else None,
            stdout=outputs[0],
            stderr=outputs[1],
            result=outputs[2],
            files=_read_kept(reply, limits.files_mb << 20),
            cpu_seconds=reply["cpu_seconds"],
            wall_seconds=reply["wall_seconds"],
            peak_memory_mb=reply["peak_memory_mb"],
            group_memory_mb=reply["group_memory_mb"],
            rung=self._recipe.rung,
        )

    def stop(self) -> None:
        """Ends the keeper and everything in it."""
        if self._control is not None:
            self._control.close()
            self._control = None
        if self._process is not None:
            try:
                self._process.wait(5.0)
            except subprocess.TimeoutExpired:
                self._kill_group()
                self._process.wait()
            self._process = None
        if self._group is not None:
            self._group.remove()
            self._group = None
        folder, self._folder = self._folder, None
        if folder is not None:
            with contextlib.suppress(OSError):
                leftovers.empty(folder)
                os.rmdir(folder)

    def _keeper(self) -> list[str]:
        interpreter, folder = self._recipe.interpreter.program, self._recipe.keeper_folder
        return [interpreter, "-s", "-S", "-P", "-B", "-c", _START, folder]

    @property
    def _starts_as(self) -> int | None:
        return self._uid if self._recipe.starts_as_slot and os.geteuid() == 0 else None

    def _settings(self, probe_port: int) -> dict[str, Any]:
        recipe = self._recipe
        return {
            "namespaces": recipe.namespaces,
            "landlock": recipe.landlock,
            "seccomp": recipe.seccomp,
            "visible": list(recipe.interpreter.visible),
            "root": self._folder,
            "folder": recipe.folder or f"{self._folder}/run",
            "empty": recipe.empty,
            "uid": self._uid,
            "probe_port": probe_port,
            "packages": list(recipe.interpreter.packages),
        }

    def _ask(
        self, asked: dict[str, Any], request: bytes, stdin: bytes | None, num_outputs: int, cap: int
    ) -> tuple[list[bytes], dict[str, Any]]:
        self.start()
        num_killed = self._limit_group(asked["limits"])
        pipes = [os.pipe() for _ in range(num_outputs)]
        inputs = [_in_memory(data) for data in (request, stdin) if data is not None]
        try:
            try:
                self._send(asked, [*inputs, *(write for _, write in pipes)])
            finally:
                for fd in (*inputs, *(write for _, write in pipes)):
                    os.close(fd)
            timeout_s = asked["limits"]["timeout_s"] + _GRACE_S
            outputs, over = self._read_outputs([read for read, _ in pipes], cap, timeout_s)
            reply, kept = self._receive(_GRACE_S)
        finally:
            for read, _ in pipes:
                os.close(read)
        reply["kept_fds"] = kept
        reply["over"] = over
        self._read_group(reply, num_killed)
        if reply["set_up"] != "ready":
            for fd in kept:
                os.close(fd)
            raise IsolationFailed(
                f"{self._recipe.rung}: the child could not be set up: {reply['set_up']}"
            )
        return outputs, reply

    def _limit_group(self, limits: dict[str, Any]) -> int:
        """Limits the group; how many processes the kernel has ended for memory before."""
        if self._group is None:
            return 0
        size_mb = limits["memory_mb"] + limits["files_mb"]
        try:
            # An expression may start no process, which is what the limit 0 of a user means.
            self._group.limit(memory_bytes=size_mb << 20, tasks=limits["processes"])
            return self._group.num_killed()
        except OSError as error:
            self._fail(f"its control group: {error}", error)

    def _read_group(self, reply: dict[str, Any], num_killed: int) -> None:
        reply["group_memory_mb"] = None
        if self._group is None:
            return
        peak = self._group.peak_bytes()
        reply["group_memory_mb"] = None if peak is None else peak / (1 << 20)
        if reply["ended"] is None and self._group.num_killed() > num_killed:
            reply["ended"] = "memory"

    def _read_outputs(
        self, fds: Sequence[int], cap: int, timeout_s: float
    ) -> tuple[list[bytes], bool]:
        """What comes out of the pipes until all are closed; asks for an end beyond the limit."""
        parts: dict[int, list[bytes]] = {fd: [] for fd in fds}
        room = dict.fromkeys(fds, cap)
        over = False
        poll = select.poll()
        for fd in fds:
            poll.register(fd, select.POLLIN)
        num_open = len(fds)
        while num_open:
            events = poll.poll(timeout_s * 1000)
            if not events:
                self._fail("it did not end in time")
            for fd, _ in events:
                part = os.read(fd, 65_536)
                if not part:
                    poll.unregister(fd)
                    num_open -= 1
                parts[fd].append(part[: max(0, room[fd])])
                room[fd] -= len(part)
            if min(room.values()) < 0 and not over:
                over = True
                self._send({"enough": True})
        return [b"".join(parts[fd]) for fd in fds], over

    def _send(self, message: dict[str, Any], fds: Sequence[int] = ()) -> None:
        assert self._control is not None
        self._control.settimeout(_GRACE_S)
        data = json.dumps(message).encode()
        try:
            if fds:
                socket.send_fds(self._control, [data], fds)
            else:
                self._control.sendall(data)
        except OSError as error:
            self._fail(str(error), error)

    def _receive(self, timeout_s: float) -> tuple[dict[str, Any], list[int]]:
        assert self._control is not None
        self._control.settimeout(timeout_s)
        try:
            data, fds, _, _ = socket.recv_fds(self._control, _LARGEST_MESSAGE, 64)
            if not data:
                raise OSError("its process has ended")
            return json.loads(data), fds
        except (OSError, ValueError) as error:
            self._fail(str(error), error)

    def _fail(self, reason: str, cause: Exception | None = None) -> NoReturn:
        # Not killed at once: a keeper that still works ends what its program left, and then itself.
        self.stop()
        raise IsolationFailed(f"{self._recipe.rung}: it did not answer: {reason}") from cause

    def _kill_group(self) -> None:
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)


_EXPRESSION: Final = {"processes": 0, "files_mb": 0}


def _request(request: dict[str, Any], files: Mapping[str, str | bytes] | None = None) -> bytes:
    contents = {
        name: data.encode() if isinstance(data, str) else data
        for name, data in (files or {}).items()
    }
    request["files"] = {name: len(data) for name, data in contents.items()}
    text = json.dumps(request).encode()
    return b"".join((f"{len(text)}\n".encode(), text, *contents.values()))


def _in_memory(data: bytes) -> int:
    """A descriptor that only reads `data`; a pipe where that surely holds it."""
    if len(data) <= _FITS_A_PIPE:
        reading, writing = os.pipe()
        os.write(writing, data)
        os.close(writing)
        return reading
    fd = os.memfd_create("preceptor", os.MFD_CLOEXEC)
    try:
        with open(fd, "wb", closefd=False) as file:
            file.write(data)
        return os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.close(fd)


def _read_kept(reply: dict[str, Any], limit: int) -> dict[str, bytes]:
    files: dict[str, bytes] = {}
    for name, fd in zip(reply["kept"], reply["kept_fds"], strict=True):
        with open(fd, "rb") as file:
            data = file.read(limit + 1)
        if len(data) <= limit:
            files[name] = data
    return files


def _command_end(reply: dict[str, Any]) -> EndedBy:
    if reply["over"]:
        return "output"
    if reply["ended"] is not None:
        return cast("EndedBy", reply["ended"])
    status: int = reply["status"]
    return ended_by_signal(-status) if status < 0 else "exit"
