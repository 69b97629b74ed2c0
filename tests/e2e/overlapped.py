"""The quickstart's run under the overlapped schedule, as a user's own recipe."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from preceptor_trainer.collect.labelling import ExpertUse
from preceptor_trainer.recipes.quickstart import quickstart
from preceptor_trainer.run.config import RunConfig
from preceptor_trainer.run.schedules import Overlapped


def recipe(**options: Any) -> RunConfig:
    """Takes the quickstart's options."""
    config = quickstart(**options)
    assert config.evaluation is not None
    evaluation = replace(config.evaluation, every=3)
    return replace(config, schedule=Overlapped(staleness=1), evaluation=evaluation)


def late(**options: Any) -> RunConfig:
    """With an expert whose answers all come late."""
    config = recipe(**options)
    tardy = ExpertUse(
        name="tardy",
        needs_feedback=False,
        own_logprobs=False,
        scores_candidates=False,
        deadline_s=0.0,
    )
    return replace(config, experts=(*config.experts, tardy))
