"""How long the phases of a step take, and how much memory is held in them."""

from __future__ import annotations

import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field

from preceptor_trainer.run.watching.peak_memory import PeakMemory
from preceptor_trainer.run.watching.progress import Progress


@dataclass
class PhaseTimer:
    """Seconds per phase."""

    progress: Progress
    peaks: PeakMemory
    seconds: dict[str, float] = field(default_factory=dict[str, float])

    @contextmanager
    def phase(self, name: str) -> Generator[None]:
        """Times one phase and shows it."""
        self.progress.phase(name)
        start = time.monotonic()
        try:
            with self.peaks.during(name):
                yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.monotonic() - start
