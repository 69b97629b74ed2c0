"""SIGTERM: a run ends in order, and in any case within its grace.

    with ends_when_asked():
        await trainer.run()

The signal cancels the task, like Ctrl-C. What runs in a thread cannot be cancelled: an update, or
a call of the sampler. Where it lasts beyond the grace the process ends all the same; checkpoints
are whole or absent, and services started for the run leave with it.
"""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Generator
from contextlib import contextmanager
from typing import Final

from preceptor_trainer.deployment.failures import TERMINATED, Terminated

GRACE_S: Final = 20.0
"""Seconds from the signal to the end; Kubernetes and most schedulers give 30."""


@contextmanager
def ends_when_asked(grace_s: float = GRACE_S) -> Generator[None]:
    """Within it SIGTERM cancels the current task, and ends the process after `grace_s` at latest.

    Raises:
        Terminated: the task was cancelled for that reason.
    """
    main = asyncio.current_task()
    assert main is not None, "used outside of a task"
    asked = False

    def end() -> None:
        nonlocal asked
        if not asked:
            asked = True
            late = threading.Timer(grace_s, os._exit, (TERMINATED,))
            late.daemon = True
            late.start()
            main.cancel()

    loop = asyncio.get_running_loop()
    try:
        loop.add_signal_handler(signal.SIGTERM, end)
    except (NotImplementedError, RuntimeError, ValueError):  # not in the main thread, or Windows
        yield
        return
    try:
        yield
    except asyncio.CancelledError:
        if asked:
            raise Terminated from None
        raise
    finally:
        loop.remove_signal_handler(signal.SIGTERM)
