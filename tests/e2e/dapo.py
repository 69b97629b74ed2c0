"""GRPO in DAPO's form on the quickstart's problems, as a user's own recipe."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from preceptor_trainer.collect.context import NothingInView
from preceptor_trainer.collect.dynamic_sampling import DynamicSampling
from preceptor_trainer.objectives.group_rewards import SoftOverlong
from preceptor_trainer.objectives.grpo import GRPO
from preceptor_trainer.recipes.quickstart import quickstart
from preceptor_trainer.run.config import RunConfig


def recipe(**options: Any) -> RunConfig:
    """Takes the quickstart's options; its problems of a step are a reserve for two groups."""
    return replace(
        quickstart(**options),
        objective=GRPO.dapo(overlong=SoftOverlong(max_length=48, buffer=12)),
        experts=(),
        context=NothingInView(),
        dynamic_sampling=DynamicSampling(groups=2),
    )
