"""Collecting in stages that overlap: sampling, feedback, experts.

A rollout that has ended is recorded and judged while others are still sampled. When all attempts at
a prompt are judged, their experts are asked, because a teacher may need what siblings wrote; where
the context policy needs no siblings, experts are asked about each attempt once it is judged. The
next step is sampled while this one's answers are awaited, so that several steps are under way; they
end in their order. Answers after the deadline join a later batch (`collect/late_answers.py`).

The student is held while a step is sampled. Where its judgements decide what is sampled next
(`dynamic_sampling`), or are the student's own (`self_evaluations`), it is held until they are made.
"""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Any, TypeAlias

from preceptor_trainer.collect.dynamic_sampling import Judged
from preceptor_trainer.collect.labelling import Labelled
from preceptor_trainer.collect.late_answers import Group, LateAnswers
from preceptor_trainer.collect.participant import StepContext
from preceptor_trainer.collect.prompts import Fitted
from preceptor_trainer.collect.rollouts import Attempt, Rollout
from preceptor_trainer.kit.seeding import generator
from preceptor_trainer.kit.together import together
from preceptor_trainer.run.collecting import Collected, Collector
from preceptor_trainer.run.watching.phases import PhaseTimer

Prepare: TypeAlias = Callable[[list[Rollout]], Awaitable[list[Rollout]]]
Judge: TypeAlias = Callable[[Sequence[Rollout]], Awaitable[list[Attempt]]]


@dataclass(kw_only=True, eq=False)
class Stream:
    """A step's rollouts, which go on to the next stage one by one."""

    tasks: asyncio.TaskGroup
    group_size: int
    """Rollouts after which a group is whole; smaller ones are at the end of sampling."""
    prepare: Prepare
    """Adds what experts need of the student, and records; called for a few rollouts at a time."""
    judge: Judge
    ask: Callable[[Sequence[Attempt]], Coroutine[Any, Any, Group]]
    """Asks the experts about a whole group."""
    ask_early: Callable[[Sequence[Attempt]], Awaitable[None]] | None = None
    """Asks the experts about attempts whose siblings they do not need."""
    asked: dict[str, asyncio.Task[Group]] = field(default_factory=dict[str, "asyncio.Task[Group]"])
    """By group; complete once `judged` has returned."""
    _new: list[Rollout] = field(default_factory=list[Rollout])
    _came: asyncio.Event = field(default_factory=asyncio.Event)
    _is_closed: bool = False
    _known: set[str] = field(default_factory=set[str])
    _sizes: Counter[str] = field(default_factory=Counter[str])
    _judged: defaultdict[str, list[Attempt]] = field(
        default_factory=lambda: defaultdict[str, list[Attempt]](list)
    )
    _judging: list[asyncio.Task[None]] = field(default_factory=list["asyncio.Task[None]"])

    def add(self, rollout: Rollout) -> None:
        """Takes a rollout that has ended; one that it has already changes nothing."""
        if rollout.rollout_id in self._known:
            return
        self._known.add(rollout.rollout_id)
        self._sizes[rollout.group_id] += 1
        self._new.append(rollout)
        self._came.set()

    def close(self) -> None:
        """No further rollout will come, so that every group is whole."""
        self._is_closed = True
        self._came.set()
        for group_id in list(self._judged):
            self._ask_if_whole(group_id)

    async def run(self) -> None:
        """Prepares what comes, and has it judged; ends when the stream is closed.

        What comes while some are prepared is prepared together.
        """
        while self._new or not self._is_closed:
            await self._came.wait()
            self._came.clear()
            some, self._new = self._new, []
            if some:
                prepared = sorted(await self.prepare(some), key=lambda r: r.group_id)
                for group_id, part in groupby(prepared, key=lambda r: r.group_id):
                    judging = self.tasks.create_task(self._judge_part(group_id, list(part)))
                    self._judging.append(judging)

    def ask_about(self, attempts: Sequence[Attempt]) -> None:
        """Asks the experts about attempts that are judged already; a group's are neighbours."""
        for group_id, group in groupby(attempts, key=lambda a: a.rollout.group_id):
            self._ask(group_id, list(group))

    async def judged(self) -> list[Attempt]:
        """All attempts, in the order of a step that does not stream; after `run` has ended."""
        await asyncio.gather(*self._judging)
        groups = sorted(self._judged.values(), key=lambda group: group[0].rollout.group)
        return [attempt for group in groups for attempt in _in_order(group)]

    async def _judge_part(self, group_id: str, part: list[Rollout]) -> None:
        attempts = await self.judge(part)
        if self.ask_early is not None:
            await self.ask_early(attempts)
        self._judged[group_id] += attempts
        self._ask_if_whole(group_id)

    def _ask_if_whole(self, group_id: str) -> None:
        attempts = self._judged[group_id]
        size = self._sizes[group_id] if self._is_closed else self.group_size
        if group_id not in self.asked and len(attempts) >= size:
            self._ask(group_id, _in_order(attempts))

    def _ask(self, group_id: str, attempts: Sequence[Attempt]) -> None:
        self.asked[group_id] = self.tasks.create_task(self.ask(attempts))


def _in_order(group: Sequence[Attempt]) -> list[Attempt]:
    """As they were requested: ids of a group end with a number, and given rollouts come last."""

    def place(attempt: Attempt) -> tuple[bool, int, str]:
        rollout = attempt.rollout
        return rollout.given, len(rollout.rollout_id), rollout.rollout_id

    return sorted(group, key=place)


@dataclass(kw_only=True, eq=False)
class Turns:
    """Lets steps end in the order in which they began."""

    _last: asyncio.Event | None = None

    def take(self) -> Callable[[], AbstractAsyncContextManager[None]]:
        """A step's place; called when it begins."""
        before, self._last = self._last, asyncio.Event()
        done = self._last

        @asynccontextmanager
        async def turn() -> AsyncGenerator[None]:
            if before is not None:
                await before.wait()
            yield
            done.set()

        return turn


@dataclass(kw_only=True, eq=False)
class StreamedCollector(Collector):
    """Collects the steps of a run whose schedule overlaps."""

    late: LateAnswers
    _turns: Turns = field(default_factory=Turns)

    async def collect(self, step: int) -> Collected:
        """Samples one step's rollouts and has them labelled, while other steps are under way."""
        timer, turn = PhaseTimer(self.progress, self.peaks), self._turns.take()
        # Before the first question: what a checkpoint had is asked again once an expert is free.
        self.late.lineage = self.publisher.lineage
        async with together() as tasks:
            judged: Judged | None = None
            async with self.student_is_free:
                at, fit = await self._begin(step)
                stream = self._new_stream(step, tasks)
                if self.config.dynamic_sampling is not None or self.config.self_evaluations:
                    judged = await self._judge(at, fit.problems, timer)
                    stream.ask_about(judged.attempts)
                else:
                    with timer.phase("sampling"):
                        await self._draw_into(stream, at, fit)
                num_failed = self._num_failed
            if judged is None:
                with timer.phase("feedback"):
                    attempts = await stream.judged()
                judged = Judged(attempts=attempts, discarded=[], missing_groups=0)
            self._check(judged, step)
            with timer.phase("experts"):
                groups = [await task for task in stream.asked.values()]
        async with turn():
            labelled = await self._batch(at, groups)
            collected = await self._collected(at, labelled, judged, fit, num_failed, timer)
        return replace(collected, late=self.late.metrics() if self.config.experts else {})

    def unused(self, step: int) -> list[Group]:
        """Groups of earlier steps with answers that no earlier batch used."""
        return self.late.unused(step)

    def restore(self, groups: Sequence[Group]) -> None:
        """Their experts are asked again by the next step."""
        self.late.groups.extend(groups)

    def trained(self, step: int) -> None:
        """Forgets what is not awaited any more."""
        self.late.trained(step)

    async def close(self) -> None:
        """Ends the questions that no step waits for."""
        await self.late.close()

    def _new_stream(self, step: int, tasks: asyncio.TaskGroup) -> Stream:
        async def judge(rollouts: Sequence[Rollout]) -> list[Attempt]:
            attempts = await self.labeller.feedback(rollouts)
            await self.labeller.record_own(attempts)
            return attempts

        async def ask(attempts: Sequence[Attempt]) -> Group:
            return await self.late.ask(step, attempts)

        return Stream(
            tasks=tasks,
            group_size=self.config.rollouts_per_problem,
            prepare=self._prepared,
            judge=judge,
            ask=ask,
            ask_early=self.late.ask_early if self._asks_early else None,
        )

    @property
    def _asks_early(self) -> bool:
        # A batch of one group would be several calls.
        needs_siblings = getattr(self.labeller.context, "needs_siblings", True)
        return self.labeller.batching == "merge" and not needs_siblings

    async def _draw_into(self, stream: Stream, at: StepContext, fit: Fitted) -> None:
        """Samples the step; returns when all rollouts are on record."""
        running = stream.tasks.create_task(stream.run())
        randomness = generator(self.config.seed, "rollouts", at.step)
        for rollout in await self._drawn(at, fit.problems, 0, randomness, stream.add):
            stream.add(rollout)
        stream.close()
        await running

    async def _batch(self, at: StepContext, groups: Sequence[Group]) -> list[Labelled]:
        """The rows of the step's groups, of participants, and of groups whose answers came late."""
        groups = sorted(groups, key=lambda group: group.attempts[0].rollout.group)
        rows = self._on_time(groups)
        # In each step an expert's late answers may make one row for each of its rollouts.
        room = max(len(rows), self.config.rollouts_per_problem) * len(self.config.experts)
        joined = await self.late.join(at.step, prefix=at.prefix, room=room)
        if not rows and not joined.rows and groups:
            await self.late.wait_for_one(groups)
            rows = self._on_time(groups)
        rows += await self._of_participants(at, rows)
        await self._record(joined.rollouts)
        return [*rows, *joined.rows]

    def _on_time(self, groups: Sequence[Group]) -> list[Labelled]:
        return [row for group in groups for row in self.late.on_time(group) or ()]
