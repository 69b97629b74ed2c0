"""Control groups: the kernel's own limit on the memory and the tasks of a whole sandbox.

    group = Group.around(process.pid, slot=0)    # None where the machine offers none
    group.limit(memory_bytes=512 << 20, tasks=32)
    ...; group.num_killed(); group.peak_bytes()
    group.remove()

A sandbox has one group for all its runs, with its keeper in it: to move a process for each run
would cost milliseconds. Limits are above what the keeper takes by itself. Both versions are used
where they are writable: the second where the service is in a group below one that systemd has
delegated, the first where its hierarchies `memory` and `pids` are mounted.
"""

from __future__ import annotations

import contextlib
import errno
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, Self

_ROOT: Final = Path("/sys/fs/cgroup")
_SLACK: Final = 16 << 20
"""For what the kernel itself keeps for the processes."""
_SOON_S: Final = 2.0
"""What a process had leaves its group a moment after its end."""
_NAME: Final = "preceptor-"


class Group:
    """One group: a folder of the second version, or one of each hierarchy of the first."""

    def __init__(self, memory: Path, tasks: Path) -> None:
        self._memory, self._tasks = memory, tasks
        self.version = 2 if memory == tasks else 1
        self._limits: tuple[int, int] | None = None
        self._own_memory, self._own_tasks = 0, 0

    @classmethod
    def around(cls, pid: int, slot: int, root: Path = _ROOT) -> Self | None:
        """A new group with a process and its descendants; None where that is not possible."""
        name = f"{_NAME}{os.getpid()}-{slot}-{pid}"
        parents = None
        with contextlib.suppress(OSError, ValueError):  # a service may be shut out of the folder
            parents = _parents(root)
        if parents is None:
            return None
        made = cls(parents[0] / name, parents[1] / name)
        try:
            for folder in {made._memory, made._tasks}:
                _remove_abandoned(folder.parent)
                folder.mkdir()
            made._begin(pid)
        except (OSError, ValueError):
            made.remove()
            return None
        return made

    def limit(self, *, memory_bytes: int, tasks: int) -> None:
        """Limits of the next run, for all its processes together."""
        if (memory_bytes, tasks) != self._limits:
            memory = self._own_memory + memory_bytes + _SLACK
            limit = "memory.max" if self.version == 2 else "memory.limit_in_bytes"
            _soon(lambda: _write(self._memory / limit, str(memory)))
            _write(self._tasks / "pids.max", str(self._own_tasks + max(1, tasks)))
            self._limits = (memory_bytes, tasks)
        if self.version == 1:  # the second version's peak begins with the group
            _write(self._memory / "memory.max_usage_in_bytes", "0")

    def num_killed(self) -> int:
        """Processes so far that the kernel has ended for memory."""
        file = "memory.events" if self.version == 2 else "memory.oom_control"
        fields = [line.split() for line in (self._memory / file).read_text().splitlines()]
        return next((int(field[1]) for field in fields if field[0] == "oom_kill"), 0)

    def peak_bytes(self) -> int | None:
        """Largest memory of the last run, what it read of files included; None if not known."""
        if self.version == 2:
            return None
        peak = int((self._memory / "memory.max_usage_in_bytes").read_text())
        return max(0, peak - self._own_memory)

    def remove(self) -> None:
        """Removes the group, whose processes have ended; never raises."""
        for folder in {self._memory, self._tasks}:
            with contextlib.suppress(OSError):
                _soon(folder.rmdir)

    def _begin(self, pid: int) -> None:
        inside = [pid, *_descendants(pid)]
        for one in inside:
            for folder in {self._memory, self._tasks}:
                _write(folder / "cgroup.procs", str(one))
        swap = ("memory.swap.max", "memory.swappiness")[2 - self.version]
        if (self._memory / swap).exists():
            _write(self._memory / swap, "0")
        used = "memory.current" if self.version == 2 else "memory.usage_in_bytes"
        self._own_memory = int((self._memory / used).read_text())
        self._own_tasks = int((self._tasks / "pids.current").read_text())
        self.num_killed()


def _parents(root: Path) -> tuple[Path, Path] | None:
    """The folders in which groups for memory and for tasks can be made."""
    own = _own_groups()
    one = _below(root, own.get("", "/"))
    # A group with processes gives nothing to groups below it, unless it is the machine's first.
    for group in (one, *([one.parent] if _is_delegated(one.parent) else [])):
        with contextlib.suppress(OSError):
            if {"memory", "pids"} <= set((group / "cgroup.subtree_control").read_text().split()):
                return group, group
    memory, tasks = (_below(root / kind, own.get(kind, "/")) for kind in ("memory", "pids"))
    if (memory / "memory.limit_in_bytes").exists() and (tasks / "cgroup.procs").exists():
        return memory, tasks
    return None


def _below(root: Path, group: str) -> Path:
    """The service's group; the mounted root in a container, where its name is the machine's."""
    folder = root / group.lstrip("/")
    return folder if folder.is_dir() else root


def _is_delegated(folder: Path) -> bool:
    """Whether systemd has left the groups below to the unit."""
    for name in ("user.delegate", "trusted.delegate"):
        with contextlib.suppress(OSError):
            if os.getxattr(folder, name) == b"1":
                return True
    return False


def _own_groups() -> dict[str, str]:
    """The service's groups by controller; that of the second version under the empty name."""
    found: dict[str, str] = {}
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            _, kinds, group = line.split(":", 2)
            found |= dict.fromkeys(kinds.split(","), group)
    return found


def _descendants(pid: int) -> list[int]:
    parents: dict[int, int] = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError):
                stat = Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()
                parents[int(name)] = int(stat[1])
    found: list[int] = []
    new = [pid]
    while new:
        new = [child for child, parent in parents.items() if parent in new]
        found += new
    return found


def _remove_abandoned(parent: Path) -> None:
    """Removes groups of services that were killed; one with processes cannot be removed."""
    for folder in parent.glob(f"{_NAME}*"):
        pid = folder.name.removeprefix(_NAME).partition("-")[0]
        if not Path("/proc", pid).exists():
            with contextlib.suppress(OSError):
                folder.rmdir()


def _write(file: Path, text: str) -> None:
    file.write_text(text)


def _soon(do: Callable[[], None]) -> None:
    """Does it, again for a while where the kernel says that the group is still in use.

    Raises:
        OSError: it is refused for another reason, or for too long.
    """
    until = time.monotonic() + _SOON_S
    while True:
        try:
            return do()
        except OSError as error:
            if error.errno != errno.EBUSY or time.monotonic() > until:
                raise
            time.sleep(0.01)
