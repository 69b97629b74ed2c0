"""The event loop of gateway and dispatcher: uvloop, whose sockets and timers cost half as much."""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


def run_process(main: Coroutine[Any, Any, T]) -> T:
    """`asyncio.run`, on uvloop where it is installed; on Windows it is not."""
    with asyncio.Runner(loop_factory=_fast_loop()) as runner:
        return runner.run(main)


def _fast_loop() -> Any:
    try:
        return importlib.import_module("uvloop").new_event_loop
    except ModuleNotFoundError:
        return None
