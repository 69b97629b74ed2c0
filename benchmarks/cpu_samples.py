"""Runs a module and counts where its process spends CPU, for `answer_profile.py`.

    python benchmarks/cpu_samples.py FILE MODULE [ARGUMENTS of the module]

SIGUSR1 begins to count, SIGUSR2 writes what was counted to FILE. After each few milliseconds of CPU
the kernel interrupts the process; what each thread has used since the last interruption counts for
the stack that it has then.
"""

from __future__ import annotations

import json
import os
import runpy
import signal
import sys
import threading
import time
from collections import defaultdict
from pathlib import Path
from types import FrameType
from typing import Final

_INTERVAL_S: Final = 0.002
"""Of CPU; the kernel's own tick may be longer."""
Stack = tuple[str, ...]


class Samples:
    """Seconds of CPU by stack, the innermost function first."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._seconds: defaultdict[Stack, float] = defaultdict(float)
        self._used: dict[int, float] = {}

    def begin(self, *_: object) -> None:
        """Forgets what was counted before."""
        self._seconds.clear()
        self._used = {ident: _cpu_s(ident) for ident in _frames()}
        signal.setitimer(signal.ITIMER_PROF, _INTERVAL_S, _INTERVAL_S)

    def take(self, _: int, interrupted: FrameType | None) -> None:
        """Counts what each thread has used since the last time."""
        own = threading.get_ident()
        for ident, frame in _frames().items():
            used = _cpu_s(ident)
            spent = used - self._used.get(ident, 0.0)
            self._used[ident] = used
            if spent > 0:
                self._seconds[_stack(interrupted if ident == own else frame)] += spent

    def end(self, *_: object) -> None:
        """Writes what was counted."""
        signal.setitimer(signal.ITIMER_PROF, 0)
        rows = [[list(stack), seconds] for stack, seconds in self._seconds.items()]
        unfinished = self._file.with_suffix(".part")
        unfinished.write_text(json.dumps(rows))
        os.replace(unfinished, self._file)


def _frames() -> dict[int, FrameType]:
    # The only way to the stacks of the other threads; documented, in spite of its name.
    return sys._current_frames()  # pyright: ignore[reportPrivateUsage]


def _cpu_s(ident: int) -> float:
    return time.clock_gettime(time.pthread_getcpuclockid(ident))


def _stack(frame: FrameType | None) -> Stack:
    names: list[str] = []
    while frame is not None:
        names.append(f"{frame.f_globals.get('__name__', '?')}:{frame.f_code.co_qualname}")
        frame = frame.f_back
    return tuple(names)


def main() -> None:
    """Runs the module of the command line."""
    samples = Samples(Path(sys.argv[1]))
    signal.signal(signal.SIGPROF, samples.take)
    signal.signal(signal.SIGUSR1, samples.begin)
    signal.signal(signal.SIGUSR2, samples.end)
    module = sys.argv[2]
    sys.argv = sys.argv[2:]
    sys.path[0] = ""
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
