"""The quickstart's run under the overlapped schedule, as a user's own recipe."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from preceptor_trainer.recipes.quickstart import quickstart
from preceptor_trainer.run.config import RunConfig
from preceptor_trainer.run.schedules import Overlapped


def recipe(**options: Any) -> RunConfig:
    """Takes the quickstart's options."""
    return replace(quickstart(**options), schedule=Overlapped(staleness=1))
