"""A run and the processes of a test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from .runs import Processes, Training


@pytest.fixture
def processes() -> Iterator[Processes]:
    started = Processes()
    yield started
    started.end()


@pytest.fixture
def training(tmp_path: Path, processes: Processes) -> Training:
    return Training(folder=tmp_path, processes=processes)
