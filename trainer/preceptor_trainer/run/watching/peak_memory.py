"""The most memory that a run's process held in each phase.

    with PeakMemory() as peaks:
        with peaks.during("update"):
            ...
    peaks.most                      # {"update": 5_200_000_000}

A thread looks twenty times a second. Phases of an overlapped schedule run at the same time; what is
held then counts for each of them. On a GPU it is the memory of tensors there.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Generator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Final, Self, cast

import torch

from preceptor_trainer.kit.machine import resident_bytes

_LOOK_S: Final = 0.05


class PeakMemory:
    """Watches one process.

    Args:
        held: Says how much is held now; that of this process by default.
    """

    def __init__(self, held: Callable[[], int] = resident_bytes) -> None:
        self.most: dict[str, int] = {}
        self._held = held
        self._now = Counter[str]()
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="peak-memory", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._ended.set()
        self._thread.join()

    @contextmanager
    def during(self, phase: str) -> Generator[None]:
        """What is held within the block counts for `phase`."""
        with self._lock:
            self._now[phase] += 1
        try:
            yield
        finally:
            self._look()
            with self._lock:
                self._now[phase] -= 1

    def _watch(self) -> None:
        while not self._ended.wait(_LOOK_S):
            self._look()

    def _look(self) -> None:
        held = self._held()
        with self._lock:
            for phase, number in self._now.items():
                if number:
                    self.most[phase] = max(held, self.most.get(phase, 0))


def held_on(device: torch.device) -> Callable[[], int]:
    """What says how much is held where a run computes."""
    if device.type != "cuda":
        return resident_bytes
    return lambda: int(cast(Any, torch.cuda).memory_allocated(device))
