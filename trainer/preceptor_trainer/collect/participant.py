"""Participants of a run beside its experts: people, probes, a rule that ends the run.

    class Stops(Participant):
        async def ends(self, at: StepContext, labelled: Sequence[Labelled]) -> bool:
            return any(row.attempt.solved for row in labelled)

The loop calls every hook of every participant in the order of `RunConfig.participants`. A hook that
is not overridden does nothing. Rows that a participant adds are recorded and trained like all
others. Observing has no effect on the run.
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
    """0, or the step of the checkpoint from which a resumed run continues."""
    gateway: GatewayClient
    labeller: Labeller
    policy: Policy
    new_student: Callable[[], Student]
    """A separate student for the participant, which samples like the run's student."""
    published: Callable[[], Published]
    """The newest version of the policy."""


@dataclass(frozen=True, kw_only=True, eq=False)
class StepContext:
    """The current step during collection."""

    step: int
    prefix: str
    """Prefix of the ids of rollouts made for it."""
    weights: str
    """The version of the policy that samples it."""
    student: Student
    params: SamplingParams


class Participant:
    """Base class of participants. Every hook may be overridden."""

    async def start(self) -> None:
        """Called before the first step."""

    async def rollouts(self, at: StepContext) -> list[Rollout]:
        """Further rollouts of the step, to be judged and sent to experts like the others."""
        return []

    async def labelled(self, at: StepContext, labelled: Sequence[Labelled]) -> list[Labelled]:
        """Further rows with their own targets, after the step's rows are labelled."""
        return []

    async def ends(self, at: StepContext, labelled: Sequence[Labelled]) -> bool:
        """Whether the run ends here, before it trains on these rows."""
        return False

    def metrics(self, step: int) -> dict[str, float]:
        """Further metrics of this step; called once per step."""
        return {}

    async def trained(self, step: int) -> None:
        """Called after the optimiser step is published and recorded."""


class Joins(Protocol):
    """The configuration of a participant."""

    @property
    def adds_rollouts(self) -> bool:
        """Whether it adds rollouts that are in no group of the step."""
        ...

    def join(self, run: RunContext) -> Participant:
        """The participant of one run."""
        ...
