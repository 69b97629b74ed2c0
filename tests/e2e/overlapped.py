"""The quickstart's run under the overlapped schedule, as a user's own recipe."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from preceptor_trainer.recipes.quickstart import quickstart
from preceptor_trainer.run.config import RunConfig
from preceptor_trainer.run.schedules import Overlapped


def recipe(**options: Any) -> RunConfig:
    """Takes the quickstart's options."""
    config = quickstart(**options)
    assert config.evaluation is not None
    evaluation = replace(config.evaluation, every=3)
    return replace(config, schedule=Overlapped(staleness=1), evaluation=evaluation)
