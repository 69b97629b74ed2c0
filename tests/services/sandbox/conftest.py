"""Boxes that run programs."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from preceptor_services.sandbox.isolation import Limits, Outcome, ProgramRun
from preceptor_services.sandbox.ladder import open_sandbox
from preceptor_services.sandbox.warm import WarmSandbox

RunProgram = Callable[..., Outcome]


def open_warm(rung: str, slot: int = 0) -> WarmSandbox:
    opened = open_sandbox(rung, slot=slot)
    assert isinstance(opened, WarmSandbox)
    return opened


@pytest.fixture
def temporary(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder for temporary files of this test alone, which every user may pass through."""
    folder = Path(tempfile.mkdtemp(prefix="preceptor-test-"))
    folder.chmod(0o755)
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def box() -> Iterator[WarmSandbox]:
    isolation = open_warm("namespaces")
    yield isolation
    isolation.stop()


@pytest.fixture
def run_program(box: WarmSandbox) -> RunProgram:
    def run(program: str, *inputs: Any, **limits: Any) -> Outcome:
        attempt = ProgramRun(program=program, entry="x", inputs=inputs or ([3, 1],))
        return box.run(attempt, Limits(**limits))

    return run


def descendants(pid: int | None) -> list[psutil.Process]:
    """Every process below the box."""
    assert pid is not None
    return psutil.Process(pid).children(recursive=True)


@pytest.fixture
def as_user_script() -> Path:
    return Path(__file__).with_name("run_restricted.py")
