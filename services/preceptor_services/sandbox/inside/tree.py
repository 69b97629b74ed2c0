"""The processes of a run: what they use together, and their end."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import time
from dataclasses import dataclass

_TICK = 1 / os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, kw_only=True)
class Usage:
    cpu_seconds: float
    memory_bytes: int
    tasks: int


class Tree:
    """The keeper's descendants; in a process namespace of its own, every other process of it.

    Args:
        proc: A descriptor of /proc; without one, only the first process of a run is measured.
        whole: The keeper is the first process of its namespace.
    """

    def __init__(self, proc: int | None, *, whole: bool) -> None:
        self._proc = proc
        self._whole = whole

    def usage(self, pid: int, *, whole: bool) -> Usage:
        """What the run of `pid` uses now: with all its processes, or its first alone."""
        cpu, memory, tasks = 0.0, 0, 0
        pids = self._pids() if whole else []
        for other in pids:
            with contextlib.suppress(OSError, ValueError, IndexError):
                fields = self._read(f"{other}/stat").rpartition(")")[2].split()
                cpu += sum(int(field) for field in fields[11:15]) * _TICK
                tasks += int(fields[17])
                memory += int(fields[21]) * _PAGE
        with contextlib.suppress(OSError):
            # Finer than the ticks, and there without /proc: the clock of another process.
            cpu = max(cpu, time.clock_gettime((~pid << 3) | 2))
        return Usage(cpu_seconds=cpu, memory_bytes=memory, tasks=tasks)

    def memory_without_shared(self) -> int:
        """Bytes in memory, where pages that several processes share count once; slow."""
        return sum(self._own_memory(pid) for pid in self._pids())

    def _own_memory(self, pid: int) -> int:
        with contextlib.suppress(OSError, ValueError, IndexError):
            found = self._read(f"{pid}/smaps_rollup").split("\nPss:")[1]
            return int(found.split()[0]) << 10
        with contextlib.suppress(OSError, ValueError, IndexError):
            # Where that is refused: without what a fork of the keeper shares with it.
            resident = (int(self._read(f"{name}/statm").split()[1]) for name in (pid, os.getpid()))
            return max(0, next(resident) - next(resident)) * _PAGE
        return 0

    def end(self, pid: int) -> tuple[int, resource.struct_rusage]:
        """Ends every process of the run; status and use of its first."""
        self._signal_all(pid)
        _, status, usage = os.wait4(pid, 0)
        # Its children are the keeper's now. One that was being started has escaped the signal.
        while self._reap():
            self._signal_all(pid)
            time.sleep(0.001)
        return status, usage

    def _signal_all(self, pid: int) -> None:
        targets = (-1,) if self._whole else (-pid, pid, *self._pids())
        for target in targets:
            # It may have ended, or not lead its own group yet.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(target, signal.SIGKILL)

    def _reap(self) -> bool:
        """Waits for those that have ended; whether others are left."""
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return False
        return True

    def _pids(self) -> list[int]:
        if self._proc is None:
            return []
        if self._whole:
            names = os.listdir(self._proc)
            own = str(os.getpid())
            return [int(name) for name in names if name.isdigit() and name != own]
        return self._descendants(os.getpid())

    def _descendants(self, pid: int) -> list[int]:
        found: list[int] = []
        waiting = [pid]
        while waiting:
            children = self._children(waiting.pop())
            found += children
            waiting += children
        return found

    def _children(self, pid: int) -> list[int]:
        assert self._proc is not None
        children: list[int] = []
        with contextlib.suppress(OSError):
            tasks = os.open(f"{pid}/task", os.O_RDONLY | os.O_DIRECTORY, dir_fd=self._proc)
            try:
                for task in os.listdir(tasks):
                    with contextlib.suppress(OSError):
                        text = self._read(f"{pid}/task/{task}/children")
                        children += [int(child) for child in text.split()]
            finally:
                os.close(tasks)
        return children

    def _read(self, name: str) -> str:
        fd = os.open(name, os.O_RDONLY, dir_fd=self._proc)
        try:
            return os.read(fd, 65_536).decode("ascii", "replace")
        finally:
            os.close(fd)
