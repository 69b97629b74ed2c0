"""One child process: started in a group of its own, logged, tied to us, ended with its children.

A group of its own keeps Ctrl-C from reaching the child before we decide in which order things end.
On Linux the kernel ends the child when we die, however we die; elsewhere only an orderly end takes
the children along.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from preceptor_services.kit.private import append_private

_PR_SET_PDEATHSIG: Final = 1
_LIBC: Final[Any] = ctypes.CDLL(None) if sys.platform == "linux" else None
_TAIL_LINES: Final = 12


@dataclass(frozen=True, kw_only=True)
class ChildSpec:
    """What to run."""

    name: str
    command: tuple[str, ...]
    log: Path
    url: str | None
    """Where it listens; None if it does not."""
    is_ready: Callable[[], Awaitable[bool]]
    stop_rank: int
    """Lower ones are ended first."""


class Child:
    """A process that runs `spec`, perhaps for the second time."""

    def __init__(self, spec: ChildSpec) -> None:
        self.spec = spec
        self.restarts = 0
        self.started_at = 0.0
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """Of the process, if one was started."""
        return None if self._process is None else self._process.pid

    def start(self) -> None:
        """Starts the process; its output is appended to its log."""
        parent = os.getpid()
        self.started_at = time.monotonic()
        with append_private(self.spec.log) as log:
            self._process = subprocess.Popen(
                self.spec.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, "PYTHONUNBUFFERED": "1"},
                process_group=0,
                preexec_fn=lambda: _die_with(parent),
            )

    def exit_code(self) -> int | None:
        """None while it runs or was never started."""
        return None if self._process is None else self._process.poll()

    def runs(self) -> bool:
        """Whether the process is there."""
        return self._process is not None and self._process.poll() is None

    def terminate(self) -> None:
        """Asks it to end."""
        if self.runs():
            assert self._process is not None
            self._process.send_signal(signal.SIGTERM)
            # A stopped process hears nothing until it is continued.
            self._process.send_signal(signal.SIGCONT)

    def kill_group(self) -> None:
        """Ends it and whatever it has started, at once."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def ending(self) -> str:
        """Its name, how it ended and its last words."""
        try:
            lines = self.spec.log.read_text(errors="replace").splitlines()[-_TAIL_LINES:]
        except OSError:
            lines = []
        words = "".join(f"\n    {line}" for line in lines) or " nothing"
        return f"{_how(self.spec.name, self.exit_code())}; {self.spec.log} ends with:{words}"


def _how(name: str, exit_code: int | None) -> str:
    if exit_code is None:
        return f"{name} is still running"
    if exit_code < 0:
        return f"{name} was killed by {signal.Signals(-exit_code).name}"
    return f"{name} ended with exit code {exit_code}"


def _die_with(parent: int) -> None:
    # Runs in the child between fork and exec.
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:
            os._exit(1)
