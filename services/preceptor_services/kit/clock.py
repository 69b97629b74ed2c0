"""Server time: seconds since the epoch that never jump; a changed wall clock moves no deadline.

Within a process time is monotonic. Across restarts it goes on where it was: on the same boot of the
machine by the machine's own monotonic clock, else by the wall clock, but never before what was told
last. So leases and deadlines that stand in the database mean the same afterwards.
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
    """Tells server time; tests hand in one that they move."""

    def now(self) -> float: ...


class ServerClock:
    """The wall clock at the start, plus monotonic time since."""

    def __init__(self, offset: float | None = None) -> None:
        self._offset = time.time() - time.monotonic() if offset is None else offset

    def now(self) -> float:
        """Seconds since the epoch."""
        return self._offset + time.monotonic()


class KeptClock(ServerClock):
    """A server's clock that goes on after a restart; `keep` is called now and then."""

    def __init__(self, path: Path) -> None:
        super().__init__(_continued(path))
        self._path = path
        self.keep()

    def keep(self) -> None:
        """Writes down what time it is."""
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
    """Names this boot of the machine, over which its monotonic clock runs; empty if unknown."""
    with contextlib.suppress(OSError):
        return _BOOT_ID.read_text().strip()
    return ""
