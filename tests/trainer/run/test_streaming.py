"""A step's rollouts go on to the next stage one by one."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace

from preceptor_trainer.collect.late_answers import Group
from preceptor_trainer.collect.rollouts import Attempt, Rollout
from preceptor_trainer.kit.together import together
from preceptor_trainer.run.streaming import Stream

from ..collect.late import TASK, attempts


def rollout(group: int, i: int, *, given: bool = False) -> Rollout:
    name = f"r-{group}-{'given-' if given else ''}{i}"
    of_one = attempts(0, 1)[0].rollout
    return replace(of_one, rollout_id=name, group_id=f"r-{group}", group=group, given=given)


class Stages:
    """Records what each stage gets."""

    def __init__(
        self, tasks: asyncio.TaskGroup, group_size: int = 2, *, early: bool = False
    ) -> None:
        self.prepared: list[list[str]] = []
        self.asked_early: list[list[str]] = []
        self.asked: list[list[str]] = []
        self.stream = Stream(
            tasks=tasks,
            group_size=group_size,
            prepare=self._prepare,
            judge=self._judge,
            ask=self._ask,
            ask_early=self._ask_early if early else None,
        )
        self.running = tasks.create_task(self.stream.run())

    async def add(self, *rollouts: Rollout) -> None:
        for one in rollouts:
            self.stream.add(one)
        for _ in range(8):
            await asyncio.sleep(0)

    async def _prepare(self, rollouts: list[Rollout]) -> list[Rollout]:
        self.prepared.append([r.rollout_id for r in rollouts])
        return rollouts

    async def _judge(self, rollouts: Sequence[Rollout]) -> list[Attempt]:
        return [Attempt(rollout=r, items=(), task=TASK) for r in rollouts]

    async def _ask_early(self, attempts: Sequence[Attempt]) -> None:
        self.asked_early.append([a.rollout.rollout_id for a in attempts])

    async def _ask(self, group: Sequence[Attempt]) -> Group:
        self.asked.append([a.rollout.rollout_id for a in group])
        return Group(step=0, attempts=group, in_view=[])


async def test_a_group_is_shown_to_its_experts_while_others_are_sampled():
    async with together() as tasks:
        stages = Stages(tasks)
        await stages.add(rollout(1, 1))
        await stages.add(rollout(0, 0))
        before = list(stages.asked)
        await stages.add(rollout(1, 0))
        while_sampled = list(stages.asked)
        stages.stream.close()

    assert stages.prepared == [["r-1-1"], ["r-0-0"], ["r-1-0"]]
    assert before == []
    assert while_sampled == [["r-1-0", "r-1-1"]]


async def test_an_attempt_is_shown_at_once_where_its_siblings_are_not_needed():
    async with together() as tasks:
        stages = Stages(tasks, early=True)
        await stages.add(rollout(0, 1))
        at_once = list(stages.asked_early)
        await stages.add(rollout(0, 0))
        stages.stream.close()

    assert at_once == [["r-0-1"]]
    assert stages.asked == [["r-0-0", "r-0-1"]]


async def test_what_ends_together_is_prepared_together_and_nothing_twice():
    async with together() as tasks:
        stages = Stages(tasks)
        await stages.add(rollout(0, 0), rollout(1, 0), rollout(0, 0))
        await stages.add(rollout(0, 0), rollout(0, 1), rollout(1, 1))
        stages.stream.close()

    assert stages.prepared == [["r-0-0", "r-1-0"], ["r-0-1", "r-1-1"]]


async def test_a_group_that_lost_an_attempt_is_whole_when_sampling_ends():
    async with together() as tasks:
        stages = Stages(tasks, group_size=3)
        await stages.add(rollout(0, 10), rollout(0, 2), rollout(1, 0, given=True), rollout(1, 1))
        before = list(stages.asked)
        stages.stream.close()
        await stages.running
        judged = await stages.stream.judged()

    assert before == []
    assert sorted(stages.asked) == [["r-0-2", "r-0-10"], ["r-1-1", "r-1-given-0"]]
    assert [a.rollout.group for a in judged] == [0, 0, 1, 1]
