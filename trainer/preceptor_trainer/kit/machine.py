"""What this machine has: memory of the process, memory in all, and room on a disk."""

from __future__ import annotations

import os
import resource
import shutil
import sys
from pathlib import Path
from typing import Any, Final, cast

import torch

_STATM: Final = Path("/proc/self/statm")
_MEMINFO: Final = Path("/proc/meminfo")
_MOUNTS: Final = Path("/proc/self/mounts")
_LIMIT: Final = Path("/sys/fs/cgroup/memory.max")
"""The limit of a container; `max` where there is none."""
_USED: Final = Path("/sys/fs/cgroup/memory.current")


def resident_bytes() -> int:
    """Memory that this process holds; where the system does not say it, the most that it held."""
    if _STATM.exists():
        return int(_STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most << 10


def memory_bytes(device: torch.device) -> int:
    """All memory, used or not: the GPU's own, or what this machine or container has."""
    if device.type == "cuda":
        return int(cast(Any, torch.cuda).get_device_properties(device).total_memory)
    installed = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return min(installed, _number(_LIMIT) or installed)


def free_memory_bytes(device: torch.device) -> int:
    """Memory that nobody uses at the moment."""
    if device.type == "cuda":
        return int(cast(Any, torch.cuda).mem_get_info(device)[0])
    free = _available() or memory_bytes(device)
    limit, used = _number(_LIMIT), _number(_USED)
    return free if limit is None or used is None else min(free, max(limit - used, 0))


def free_disk_bytes(folder: Path) -> int:
    """Room in a folder, which need not exist yet."""
    return shutil.disk_usage(_existing(folder)).free


def is_in_memory(folder: Path) -> bool:
    """Whether a folder, which need not exist yet, is main memory and no disk: a `tmpfs`."""
    if not _MOUNTS.exists():
        return False
    kinds = {place: kind for _, place, kind, *_ in map(str.split, _MOUNTS.read_text().splitlines())}
    there = _existing(folder).resolve()
    mount = next(str(path) for path in (there, *there.parents) if os.path.ismount(path))
    return kinds.get(mount) in ("tmpfs", "ramfs")


def folder_bytes(folder: Path) -> int:
    """What the files of a folder take."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _existing(folder: Path) -> Path:
    whole = folder.absolute()
    return next(path for path in (whole, *whole.parents) if path.exists())


def _available() -> int | None:
    lines = _MEMINFO.read_text().splitlines() if _MEMINFO.exists() else []
    found = [line.split()[1] for line in lines if line.startswith("MemAvailable:")]
    return int(found[0]) << 10 if found else None


def _number(path: Path) -> int | None:
    try:
        text = path.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdecimal() else None
