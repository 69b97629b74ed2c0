"""Server time: seconds since the epoch without jumps; a changed wall clock moves no deadline.

Within a process time is monotonic. After a restart it continues: on the same boot of the machine by
the machine's monotonic clock, else by the wall clock, but never before the last time that was kept.
So leases and deadlines in the database stay valid.
"""

from __future__ import annotations

import contextlib
import json
import time
from pathlib import Path
from typing import Any, Final, Protocol

from preceptor_clients.kit.files import OWNER_ONLY, write_whole
from preceptor_services.kit.private import make_private_folder

_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")


class Clock(Protocol):
    """Server time; tests use a clock that they set."""

    def now(self) -> float: ...


class ServerClock:
    """The wall clock at the start, plus monotonic time since."""

    def __init__(self, offset: float | None = None) -> None:
        self._offset = time.time() - time.monotonic() if offset is None else offset

    def now(self) -> float:
        """Seconds since the epoch."""
        return self._offset + time.monotonic()


class KeptClock(ServerClock):
    """A server's clock that continues after a restart; `keep` is called periodically."""

    def __init__(self, path: Path) -> None:
        super().__init__(_continued(path))
        self._path = path
        self.keep()

    def keep(self) -> None:
        """Stores the current time."""
        make_private_folder(self._path.parent)
        told = {"boot": _boot(), "offset": self._offset, "now": self.now()}
        write_whole(self._path, json.dumps(told), mode=OWNER_ONLY)


def _continued(path: Path) -> float:
    fresh = time.time() - time.monotonic()
    kept: Any = None
    with contextlib.suppress(OSError, ValueError):
        kept = json.loads(path.read_text())
    match kept:
        case {"boot": str(boot), "offset": float(offset), "now": float(now)}:
            if boot and boot == _boot():
                return offset
            return max(fresh, now - time.monotonic())
        case _:
            return fresh


def _boot() -> str:
    """Id of this boot of the machine, for which its monotonic clock is valid; empty if unknown."""
    with contextlib.suppress(OSError):
        return _BOOT_ID.read_text().strip()
    return ""
