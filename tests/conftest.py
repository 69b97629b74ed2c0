"""The long tests first, so that two workers end together; and a disk that is soon full."""

from __future__ import annotations

import contextlib
import gc
import os
import resource
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

# As the command sets it for its own processes, before torch loads: two workers share the cores, and
# OpenMP threads that spin while they wait take them from the other one.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

SMALL_DISK_BYTES = 64 << 10


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    from .scheduling import FilesAndFolders

    return FilesAndFolders(config, log)


def _rank(item: pytest.Item) -> int:
    if item.get_closest_marker("e2e") is not None:
        return 0
    return 1 if item.get_closest_marker("slow") is not None else 2


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keeps the order otherwise: workers take whole files, in the order of their first test."""
    items.sort(key=_rank)


def pytest_collection_finish() -> None:
    """What was imported stays, so the garbage collector need not walk through it each time."""
    gc.collect()
    gc.freeze()


@contextlib.contextmanager
def _limited_files() -> Iterator[None]:
    """Where nobody may mount: no file of this process may get larger than the small disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (SMALL_DISK_BYTES, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder that takes 64 KiB; a larger write fails as the kernel lets it fail."""
    folder = tmp_path / "small"
    folder.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", f"size={SMALL_DISK_BYTES}", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(words, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        mounted = False
    if not mounted:
        with _limited_files():
            yield folder
        return
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)
