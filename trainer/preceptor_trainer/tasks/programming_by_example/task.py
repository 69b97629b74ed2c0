"""Attempts at a problem of this task are judged by the executor, on all cases."""

from __future__ import annotations

from typing import Final

from preceptor_trainer.tasks.task import ScoredTask

EXECUTOR: Final = "executor"
"""The executor's name in the deployments that runs of this world write."""
PROGRAMMING: Final = ScoredTask(sources=(EXECUTOR,))
"""Score 1 means that every case passed, else 0."""
