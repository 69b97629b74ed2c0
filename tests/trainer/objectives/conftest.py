"""A run's plan, and the parts of a step, for objectives."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from preceptor_trainer.collect.labelling import ExpertUse
from preceptor_trainer.collect.rollout_sources import OnPolicy, RolloutSource
from preceptor_trainer.sampling.params import SamplingParams


@dataclass(frozen=True, kw_only=True)
class RunPlan:
    """What an objective may ask about a run."""

    sampling: SamplingParams = SamplingParams()
    experts: tuple[ExpertUse, ...] = (ExpertUse(name="teacher"),)
    sources: tuple[str, ...] = ("executor",)
    rollout_source: RolloutSource = OnPolicy()
    rollouts_per_problem: int = 8


@pytest.fixture
def make_plan() -> Callable[..., RunPlan]:
    def make(**fields: Any) -> RunPlan:
        return RunPlan(**fields)

    return make
