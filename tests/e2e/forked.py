"""The command as a process of its own, forked from one that has imported the trainer.

An import of the trainer takes seconds of both cores, and these tests start it many times.
"""

from __future__ import annotations

import faulthandler
import functools
import inspect
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from preceptor_clients.cli.main import main
from preceptor_clients.http.gateway import GatewayClient
from preceptor_trainer import loop
from preceptor_trainer.collect.labelling import Labeller
from preceptor_trainer.evaluation.held_out import Evaluation
from preceptor_trainer.learner.learner import Learner
from preceptor_trainer.learner.policy import WeightFolder
from preceptor_trainer.run import checkpoint
from preceptor_trainer.run.journal import Journal
from preceptor_trainer.run.watching.metrics_log import MetricsLog

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["tests.e2e.preloaded"])

Point = tuple[str, int]

POINTS: dict[str, tuple[Any, str]] = {
    "collect": (Journal, "record_rollouts"),
    "feedback": (Labeller, "_ask_source"),
    "experts": (Labeller, "ask_expert"),
    "targets": (Labeller, "targets"),
    "update": (Learner, "step"),
    "publish": (WeightFolder, "write"),
    "record": (GatewayClient, "record_step"),
    "metrics": (MetricsLog, "write"),
    "checkpoint": (checkpoint.torch, "save"),
    "evaluation": (Evaluation, "save"),
    "summary": (Journal, "finish"),
    "report": (loop, "write_report"),
}
"""A killed process ends when this has been done, and what follows it has not."""


class Command:
    """`preceptor WORDS` as a process: waited for, polled and signalled like one of `subprocess`."""

    def __init__(
        self,
        words: Sequence[str],
        log: Path,
        *,
        cwd: Path | None = None,
        kill_at: Point | None = None,
    ) -> None:
        log.parent.mkdir(parents=True, exist_ok=True)
        log.touch()
        self._log = log
        self._process = _CONTEXT.Process(
            target=_run, args=(list(words), log, cwd, kill_at), daemon=True
        )
        self._process.start()

    def poll(self) -> int | None:
        """The exit code, below 0 for a signal; `None` while it runs."""
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        """The exit code, once the process has ended.

        Raises:
            AssertionError: it still runs; with what it said, and where its threads are.
        """
        self._process.join(timeout)
        code = self.poll()
        if code is None:
            self.send_signal(signal.SIGUSR1)
            self._process.join(1.0)
            raise AssertionError(f"still runs after {timeout} s\n{self._log.read_text()}")
        return code

    @property
    def pid(self) -> int:
        """Of the process."""
        assert self._process.pid is not None
        return self._process.pid

    def send_signal(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)


def _run(words: list[str], log: Path, cwd: Path | None, kill_at: Point | None) -> None:
    """In the new process: its output goes to the end of the log, as a shell would let it."""
    with log.open("ab") as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
    if cwd is not None:
        os.chdir(cwd)
        sys.path.insert(0, str(cwd))
    faulthandler.register(signal.SIGUSR1)  # writes the stacks of all threads
    sys.argv = ["preceptor", *words]
    if kill_at is not None:
        _kill_at(*kill_at)
    main(words)


def _kill_at(point: str, number: int) -> None:
    """Ends this process once the point has been passed `number` times."""
    owner, name = POINTS[point]
    done, passed = getattr(owner, name), 0

    def count() -> None:
        nonlocal passed
        passed += 1
        if passed == number:
            os.kill(os.getpid(), signal.SIGKILL)

    setattr(owner, name, _then(done, count))


def _then(done: Callable[..., Any], count: Callable[[], None]) -> Callable[..., Any]:
    @functools.wraps(done)
    def plain(*args: Any, **kwargs: Any) -> Any:
        result = done(*args, **kwargs)
        count()
        return result

    @functools.wraps(done)
    async def awaited(*args: Any, **kwargs: Any) -> Any:
        result = await done(*args, **kwargs)
        count()
        return result

    return awaited if inspect.iscoroutinefunction(done) else plain
