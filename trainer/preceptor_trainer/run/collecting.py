"""Collecting a step: sample, feedback, experts, targets.

Participants may add rollouts before the feedback sources are asked, and labelled rows after the
experts have answered. Rollouts are recorded before a source or an expert is asked about them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch

from preceptor_clients.contract.schemas import Records
from preceptor_trainer.collect.dynamic_sampling import Judged
from preceptor_trainer.collect.failed_judgements import check_judged
from preceptor_trainer.collect.labelling import Labelled, Labeller
from preceptor_trainer.collect.participant import Participant, StepContext
from preceptor_trainer.collect.prompts import PromptLimit, fitted
from preceptor_trainer.collect.rollouts import Attempt, Rollout
from preceptor_trainer.collect.student import RolloutRequest, Student
from preceptor_trainer.kit.seeding import generator
from preceptor_trainer.run.config import RunConfig
from preceptor_trainer.run.journal import Journal
from preceptor_trainer.run.phases import PhaseTimer
from preceptor_trainer.run.progress import Progress
from preceptor_trainer.run.publishing import Publisher
from preceptor_trainer.tasks.task import Problem


@dataclass(frozen=True, kw_only=True, eq=False)
class Collected:
    """One step's labelled rollouts, ready to train on."""

    at: StepContext
    labelled: Sequence[Labelled]
    judged: Judged
    prompts: dict[str, float]
    """Counts of prompts that were too long; empty where there were none."""
    failed: dict[str, float]
    """Count of attempts that nothing answered; empty where there were none."""
    seconds: dict[str, float]


class AttemptsFailed(RuntimeError):
    """So many attempts of a step were not answered that the rest would be another problem set."""


@dataclass(kw_only=True, eq=False)
class Collector:
    """Collects the steps of one run."""

    config: RunConfig
    student: Student
    labeller: Labeller
    publisher: Publisher
    journal: Journal
    progress: Progress
    prompt_limit: PromptLimit | None = None
    participants: Sequence[Participant] = field(default_factory=list[Participant])
    _num_failed: int = 0

    async def collect(self, step: int) -> Collected:
        """Samples one step's rollouts and has them labelled."""
        timer = PhaseTimer(self.progress)
        published = self.publisher.published
        await self.student.load(published)
        at = StepContext(
            step=step,
            prefix=f"{self.config.name}-{self.publisher.lineage}-{step}",
            weights=published.version,
            student=self.student,
            params=self.config.sampling,
        )
        self._num_failed = 0
        fit = fitted(self.config.problems(step), self.student.chat_ids, self.prompt_limit)
        judged = await self._judge(at, fit.problems, timer)
        all_judged = [*judged.attempts, *judged.discarded]
        check_judged(all_judged, self.config.max_failed, step)
        with timer.phase("experts"):
            labelled = await self.labeller.targets(judged.attempts)
            for participant in self.participants:
                added = await participant.labelled(at, labelled)
                await self._record([row.attempt.rollout for row in added])
                labelled += added
        with timer.phase("targets"):
            records = tuple(r for row in labelled if (r := row.record()) is not None)
            await self.labeller.gateway.record(Records(targets=records))
        failed = {"rollouts/failed": float(self._num_failed)} if self._num_failed else {}
        return Collected(
            at=at,
            labelled=labelled,
            judged=judged,
            prompts=fit.metrics,
            failed=failed,
            seconds=timer.seconds,
        )

    async def _judge(
        self, at: StepContext, problems: Sequence[Problem], timer: PhaseTimer
    ) -> Judged:
        """Samples rollouts of the step's problems and has them judged."""
        config = self.config
        randomness = generator(config.seed, "rollouts", at.step)

        async def judge(problems: Sequence[Problem], first_group: int) -> list[Attempt]:
            with timer.phase("sampling"):
                rollouts = await self._sample(at, problems, first_group, randomness)
            with timer.phase("feedback"):
                attempts = await self.labeller.feedback(rollouts)
                await self.labeller.record_own(attempts)
                return attempts

        if config.dynamic_sampling is not None:
            return await config.dynamic_sampling.fill(problems, judge)
        return Judged(attempts=await judge(problems, 0), discarded=[], missing_groups=0)

    async def _sample(
        self,
        at: StepContext,
        problems: Sequence[Problem],
        first_group: int,
        randomness: torch.Generator,
    ) -> list[Rollout]:
        """Rollouts as they go to the feedback sources; groups count from `first_group`."""
        config = self.config
        request = RolloutRequest(
            problems=problems,
            payloads=[await self.labeller.put_payload(p.payload) for p in problems],
            num_samples=config.rollouts_per_problem,
            params=config.sampling,
            generator=randomness,
            prefix=f"{at.prefix}-from{first_group}" if first_group else at.prefix,
            step=at.step,
        )
        rollouts = await self._without_failed(await config.rollout_source(self.student, request))
        if first_group:
            rollouts = [replace(r, group=first_group + r.group) for r in rollouts]
        for participant in self.participants:
            rollouts += await participant.rollouts(at)
        if num_candidates := config.objective.needs.num_candidates:
            rollouts = await self.student.with_candidates(rollouts, num_candidates)
        if any(expert.wants_entropy for expert in config.experts):
            rollouts = await self.student.with_entropy(rollouts)
        await self._record(rollouts)
        return rollouts

    async def _without_failed(self, rollouts: list[Rollout]) -> list[Rollout]:
        """Those that were answered to their end; the others are recorded and counted.

        Raises:
            AttemptsFailed: they are more than `Dialogue.max_failed` of all.
        """
        failed = [r for r in rollouts if r.failure is not None]
        if not failed:
            return rollouts
        await self._record([r for r in failed if len(r.response_ids)])
        self._num_failed += len(failed)
        dialogue = self.config.dialogue
        most = 0.0 if dialogue is None else dialogue.max_failed * len(rollouts)
        if dialogue is not None and (len(failed) > most or len(failed) == len(rollouts)):
            raise AttemptsFailed(
                f"{len(failed)} of {len(rollouts)} attempts of a step were not answered, more than "
                f"max_failed = {dialogue.max_failed:g} allows; the first: {failed[0].failure}"
            )
        return [r for r in rollouts if r.failure is None]

    async def _record(self, rollouts: Sequence[Rollout]) -> None:
        if rollouts:
            await self.journal.record_rollouts(rollouts, self.publisher.lineage)
