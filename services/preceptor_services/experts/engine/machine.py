"""The memory of the machine that scores."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Final, cast

import torch

_LIMIT: Final = Path("/sys/fs/cgroup/memory.max")
"""The limit of a container; `max` where there is none."""


def memory_mb(device: torch.device) -> int:
    """All memory in MiB, used or not: the GPU's own, or what this machine or container has."""
    if device.type == "cuda":
        properties: Any = cast(Any, torch.cuda).get_device_properties(device)
        return int(properties.total_memory) >> 20
    installed = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    text = _LIMIT.read_text().strip() if _LIMIT.is_file() else "max"
    return min(installed, int(text) if text.isdecimal() else installed) >> 20
