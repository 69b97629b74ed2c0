"""Runs a trainer's command in one process after another, each killed at a given point.

    python lives.py '[["record", 1], ["checkpoint", 1]]' train RECIPE --run-dir RUN ...

`["record", 2]` kills a process with SIGKILL at its second step record. The last process is not
killed; its exit code is this script's. Processes are forked from this one, which has imported the
trainer and made the recipe's problems, so that a start is cheap.
"""

from __future__ import annotations

import functools
import inspect
import json
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

from preceptor_clients.cli.main import main
from preceptor_clients.http.gateway import GatewayClient
from preceptor_trainer import loop
from preceptor_trainer.collect.labelling import Labeller
from preceptor_trainer.evaluation.held_out import Evaluation
from preceptor_trainer.learner.learner import Learner
from preceptor_trainer.learner.policy import WeightFolder
from preceptor_trainer.recipes.quickstart import quickstart
from preceptor_trainer.run import checkpoint
from preceptor_trainer.run.journal import Journal
from preceptor_trainer.run.metrics_log import MetricsLog

POINTS: dict[str, tuple[Any, str]] = {
    "collect": (Journal, "record_rollouts"),
    "feedback": (Labeller, "_ask_source"),
    "experts": (Labeller, "_ask_expert"),
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
"""Each process ends when this has been done, and what follows it has not."""


def kill_at(point: str, number: int) -> None:
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


def live(point: str | None, number: int, words: list[str]) -> int:
    """Runs the command in a process of its own; returns its exit code, below 0 for a signal."""
    child = os.fork()
    if child == 0:
        if point is not None:
            kill_at(point, number)
        main(words)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


if __name__ == "__main__":
    quickstart(name="warm")
    for point, number in json.loads(sys.argv[1]):
        code = live(point, number, sys.argv[2:])
        assert code == -signal.SIGKILL, f"not killed at {point}: exit code {code}"
    sys.exit(live(None, 0, sys.argv[2:]))
