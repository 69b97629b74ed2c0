"""Collecting a step: sample, feedback, experts, targets.

Participants may add rollouts before the feedback sources are asked, and labelled rows after the
experts have answered. Rollouts are recorded before a source or an expert is asked about them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch

from preceptor_clients.contract.schemas import Records
from preceptor_trainer.collect.dynamic_sampling import Judged
from preceptor_trainer.collect.failed_judgements import check_judged
from preceptor_trainer.collect.labelling import Labelled, Labeller
from preceptor_trainer.collect.late_answers import Group
from preceptor_trainer.collect.participant import Participant, StepContext
from preceptor_trainer.collect.prompts import Fitted, PromptLimit, fitted
from preceptor_trainer.collect.rollouts import Attempt, Rollout
from preceptor_trainer.collect.student import RolloutRequest, Student
from preceptor_trainer.kit.seeding import generator
from preceptor_trainer.run.config import RunConfig
from preceptor_trainer.run.journal import Journal
from preceptor_trainer.run.publishing import Publisher
from preceptor_trainer.run.watching.peak_memory import PeakMemory
from preceptor_trainer.run.watching.phases import PhaseTimer
from preceptor_trainer.run.watching.progress import Progress
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
    late: dict[str, float] = field(default_factory=dict[str, float])
    """Counts of answers that came after their step's deadline; empty where steps do not overlap."""
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
    peaks: PeakMemory = field(default_factory=PeakMemory)
    prompt_limit: PromptLimit | None = None
    participants: Sequence[Participant] = field(default_factory=list[Participant])
    student_is_free: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held while the student is used; steps that overlap and evaluations share it."""
    _num_sampled: int = 0
    _num_failed: int = 0
    """Of a step's attempts so far, which dynamic sampling draws in several calls."""

    async def collect(self, step: int) -> Collected:
        """Samples one step's rollouts and has them labelled."""
        timer = PhaseTimer(self.progress, self.peaks)
        async with self.student_is_free:
            if self.student.sleeps:
                with timer.phase("wake"):
                    await self.student.wake()
            at, fit = await self._begin(step)
            judged = await self._judge(at, fit.problems, timer)
            self._check(judged, step)
            with timer.phase("experts"):
                labelled = await self.labeller.targets(judged.attempts)
                labelled += await self._of_participants(at, labelled)
            return await self._collected(at, labelled, judged, fit, self._num_failed, timer)

    def unused(self, step: int) -> list[Group]:
        """Groups that a run needs which goes on with this step; none where nothing comes late."""
        return []

    def restore(self, groups: Sequence[Group]) -> None:
        """Takes what a checkpoint had of `unused`."""

    def trained(self, step: int) -> None:
        """Called when a step's batch has trained."""

    async def close(self) -> None:
        """Ends what is still awaited."""

    async def _begin(self, step: int) -> tuple[StepContext, Fitted]:
        """Loads the newest version; returns the step and its problems that fit."""
        published = self.publisher.published
        await self.student.load(published)
        at = StepContext(
            step=step,
            prefix=f"{self.config.name}-{self.publisher.lineage}-{step}",
            weights=published.version,
            student=self.student,
            params=self.config.sampling,
        )
        self._num_sampled = self._num_failed = 0
        return at, fitted(self.config.problems(step), self.student.chat_ids, self.prompt_limit)

    def _check(self, judged: Judged, step: int) -> None:
        all_judged = [*judged.attempts, *judged.discarded]
        check_judged(all_judged, self.config.max_failed, step)

    async def _of_participants(
        self, at: StepContext, labelled: Sequence[Labelled]
    ) -> list[Labelled]:
        """Rows that participants add, on record."""
        rows: list[Labelled] = []
        for participant in self.participants:
            added = await participant.labelled(at, [*labelled, *rows])
            await self._record([row.attempt.rollout for row in added])
            rows += added
        return rows

    async def _collected(
        self,
        at: StepContext,
        labelled: Sequence[Labelled],
        judged: Judged,
        fit: Fitted,
        num_failed: int,
        timer: PhaseTimer,
    ) -> Collected:
        """The step's batch, with its targets on record."""
        with timer.phase("targets"):
            records = tuple(r for row in labelled if (r := row.record()) is not None)
            await self.labeller.gateway.record(Records(targets=records))
        return Collected(
            at=at,
            labelled=labelled,
            judged=judged,
            prompts=fit.metrics,
            failed={"rollouts/failed": float(num_failed)} if num_failed else {},
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
            if not rollouts:
                return []
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
        return await self._prepared(await self._drawn(at, problems, first_group, randomness))

    async def _drawn(
        self,
        at: StepContext,
        problems: Sequence[Problem],
        first_group: int,
        randomness: torch.Generator,
        on_finished: Callable[[Rollout], None] | None = None,
    ) -> list[Rollout]:
        """Rollouts of the source, without failed ones, and those of participants."""
        config = self.config
        request = RolloutRequest(
            problems=problems,
            payloads=[await self.labeller.put_payload(p.payload) for p in problems],
            num_samples=config.rollouts_per_problem,
            params=config.sampling,
            generator=randomness,
            prefix=f"{at.prefix}-from{first_group}" if first_group else at.prefix,
            step=at.step,
            on_finished=on_finished,
        )
        rollouts = await self._without_failed(await config.rollout_source(self.student, request))
        if first_group:
            rollouts = [replace(r, group=first_group + r.group) for r in rollouts]
        for participant in self.participants:
            rollouts += await participant.rollouts(at)
        return rollouts

    async def _prepared(self, rollouts: list[Rollout]) -> list[Rollout]:
        """The rollouts with what experts need of the student, on record."""
        config = self.config
        if not rollouts:  # nothing answered any of them
            return rollouts
        if num_candidates := config.objective.needs.num_candidates:
            rollouts = await self.student.with_candidates(rollouts, num_candidates)
        if any(expert.wants_entropy for expert in config.experts):
            rollouts = await self.student.with_entropy(rollouts)
        await self._record(rollouts)
        return rollouts

    async def _without_failed(self, rollouts: list[Rollout]) -> list[Rollout]:
        """Those that were answered to their end; the others are recorded and counted.

        Raises:
            AttemptsFailed: they are more than `Dialogue.max_failed` of the step's so far.
        """
        failed = [r for r in rollouts if r.failure is not None]
        self._num_sampled += len(rollouts)
        self._num_failed += len(failed)
        if not failed:
            return rollouts
        await self._record([r for r in failed if len(r.response_ids)])
        dialogue, num_failed = self.config.dialogue, self._num_failed
        most = 0.0 if dialogue is None else dialogue.max_failed * self._num_sampled
        if dialogue is not None and (num_failed > most or num_failed == self._num_sampled):
            raise AttemptsFailed(
                f"{num_failed} of {self._num_sampled} attempts of a step were not answered, more "
                f"than max_failed = {dialogue.max_failed:g} allows; the first: {failed[0].failure}"
            )
        return [r for r in rollouts if r.failure is None]

    async def _record(self, rollouts: Sequence[Rollout]) -> None:
        if rollouts:
            await self.journal.record_rollouts(rollouts, self.publisher.lineage)
