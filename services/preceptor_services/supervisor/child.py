"""One child process: in its own process group, with a log, ended together with its own children.

The own group keeps Ctrl-C from reaching the child, since the supervisor stops children in order. On
Linux the kernel ends the child whenever the supervisor ends, also after a crash. On other systems
only an orderly stop ends the children.
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
    """Command line and settings of one process."""

    name: str
    command: tuple[str, ...]
    log: Path
    url: str | None
    """Its URL; None if it does not listen."""
    is_ready: Callable[[], Awaitable[bool]]
    stop_rank: int
    """Lower ones are stopped first."""


class Child:
    """A process that runs `spec`; it can be restarted."""

    def __init__(self, spec: ChildSpec) -> None:
        self.spec = spec
        self.restarts = 0
        self.started_at = 0.0
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """Process id, if it was started."""
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
        """Exit code; None while it runs or if it was never started."""
        return None if self._process is None else self._process.poll()

    def runs(self) -> bool:
        """Whether the process is running."""
        return self._process is not None and self._process.poll() is None

    def terminate(self) -> None:
        """Sends SIGTERM."""
        if self.runs():
            assert self._process is not None
            self._process.send_signal(signal.SIGTERM)
            # A stopped process receives the signal only after it is continued.
            self._process.send_signal(signal.SIGCONT)

    def kill_group(self) -> None:
        """Kills the process and its descendants immediately."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def ending(self) -> str:
        """Its name, how it ended and the last lines of its log."""
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
