"""Whoever takes part in a run beside its experts: people, probes, a rule that ends the run.

    class Stops(Participant):
        async def ends(self, at: StepContext, labelled: Sequence[Labelled]) -> bool:
            return any(row.attempt.solved for row in labelled)

The loop calls every hook of every participant in the order of `RunConfig.participants`. A hook that
is not overridden does nothing. What a participant adds is recorded and trained like everything
else; what it observes changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from preceptor_clients.http.gateway import GatewayClient
from preceptor_trainer.collect.labelling import Labelled, Labeller
from preceptor_trainer.collect.rollouts import Rollout
from preceptor_trainer.collect.student import Student
from preceptor_trainer.learner.policy import Policy
from preceptor_trainer.sampling.params import SamplingParams
from preceptor_trainer.sampling.sampler import Published


@dataclass(frozen=True, kw_only=True, eq=False)
class RunContext:
    """The run that a participant joins."""

    name: str
    seed: int
    run_dir: Path
    first_step: int
    """0, or the step of the checkpoint that a resumed run goes on from."""
    gateway: GatewayClient
    labeller: Labeller
    policy: Policy
    new_student: Callable[[], Student]
    """A student of the participant's own, which samples as the run's does."""
    published: Callable[[], Published]
    """The newest version of the policy."""


@dataclass(frozen=True, kw_only=True, eq=False)
class StepContext:
    """The step that is being collected."""

    step: int
    prefix: str
    """Of the ids of rollouts that are made for it."""
    weights: str
    """The version that it is sampled from."""
    student: Student
    params: SamplingParams


class Participant:
    """Takes part in a run. Every hook may be overridden."""

    async def start(self) -> None:
        """Before the first step."""

    async def rollouts(self, at: StepContext) -> list[Rollout]:
        """Further rollouts of the step, to be judged and shown to experts as the others are."""
        return []

    async def labelled(self, at: StepContext, labelled: Sequence[Labelled]) -> list[Labelled]:
        """Further rows with targets of their own, once the step's rows are labelled."""
        return []

    async def ends(self, at: StepContext, labelled: Sequence[Labelled]) -> bool:
        """Whether the run ends here, before it trains on these rows."""
        return False

    def metrics(self, step: int) -> dict[str, float]:
        """What it counted for this step, beside the step's own metrics; asked once a step."""
        return {}

    async def trained(self, step: int) -> None:
        """After the optimiser step, published and recorded."""


class Joins(Protocol):
    """A participant as a value of the configuration."""

    @property
    def adds_rollouts(self) -> bool:
        """Whether it brings rollouts that stand in no group of the step."""
        ...

    def join(self, run: RunContext) -> Participant:
        """The participant of one run."""
        ...
