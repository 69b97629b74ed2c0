"""Answers that miss a step's deadline: they join a later batch, or are dropped as too old.

A step waits for its experts until a deadline, group by group, and trains on what has come. Of a
group that has no answer yet nothing trains: it waits as a whole, and its rollouts train when the
first answers come. An answer about rollouts that have trained already makes further rows of them,
which are rollouts of their own in the records, because a rollout is consumed once. Their weight is
that of their experts over that of the experts that the first rows had, so that each answer has the
weight that it would have had in time; and they have no reward, which counted before.

An expert that cannot be reached is not asked. When it is back, it is asked about what it missed,
one group at a time and only while no step waits for it.

Nothing joins a batch that is more than `join_within` versions newer than the policy that sampled
it; rollouts of an older policy are weighted by the objective (`objectives/staleness.py`).

What has not been used at a checkpoint is a part of it (`group_state.py`), and is asked again
when the run goes on: answers that had come are found under the same question.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Final, TypeAlias

from preceptor_clients.targets.builder import Target, WeightedAnswer
from preceptor_trainer.collect.context import InView
from preceptor_trainer.collect.labelling import ExpertUse, Labelled, Labeller, labelled
from preceptor_trainer.collect.rollouts import Attempt, Rollout
from preceptor_trainer.tasks.task import NOT_JUDGED

Answers: TypeAlias = list[WeightedAnswer | None]
"""One entry per attempt of a group."""
_Part: TypeAlias = tuple["asyncio.Task[Answers]", int]
"""The answer about one attempt: a question, and the attempt's place in it."""

GROUPS_FROM: Final = 3_000_000
"""First group number of late rows, so that they share no baseline with others."""
_REFRESH_S: Final = 5.0


@dataclass(frozen=True, kw_only=True)
class Use:
    """One use of a group's answers."""

    step: int
    """The batch that they were used in."""
    answered: dict[str, list[bool]]
    """By expert: the attempts that it answered."""


@dataclass(kw_only=True, eq=False)
class Group:
    """Judged attempts at one prompt, their experts, and what was used of the answers."""

    step: int
    attempts: Sequence[Attempt]
    in_view: Sequence[InView]
    tasks: dict[str, asyncio.Task[Answers] | None] = field(
        default_factory=dict[str, "asyncio.Task[Answers] | None"]
    )
    """Answers that were not used yet, by expert; None where it is still to be asked."""
    used: list[Use] = field(default_factory=list[Use])

    @property
    def version_step(self) -> int:
        """The step whose policy sampled it: the last part of a version's name."""
        return int(self.attempts[0].rollout.weights.rsplit("/", 1)[1])

    @property
    def running(self) -> list[asyncio.Task[Answers]]:
        """Questions without an answer yet."""
        return [task for task in self.tasks.values() if task is not None and not task.done()]

    def arrived(self) -> dict[str, Answers]:
        """Answers that have come and were not used."""
        tasks = self.tasks.items()
        return {name: t.result() for name, t in tasks if t is not None and t.done()}

    def is_ready(self, experts: Sequence[ExpertUse]) -> bool:
        """Whether there is something to train on: none of its rollouts waits for a first answer."""
        arrived = self.arrived()
        if self.used:
            return bool(arrived)
        awaited = [e for e in experts if e.name in self.tasks and e.name not in arrived]
        return all(
            any(answers[i] is not None for answers in arrived.values())
            or not any(expert.is_asked(view) for expert in awaited)
            for i, view in enumerate(self.in_view)
        )

    def take(self, step: int) -> dict[str, Answers]:
        """The answers that have come, which count as used in this step's batch."""
        arrived = self.arrived()
        for name in arrived:
            del self.tasks[name]
        answered = {name: [one is not None for one in some] for name, some in arrived.items()}
        self.used.append(Use(step=step, answered=answered))
        return arrived


@dataclass(frozen=True, kw_only=True, eq=False)
class Joined:
    """Late rows of one batch."""

    rows: list[Labelled] = field(default_factory=list[Labelled])
    rollouts: list[Rollout] = field(default_factory=list[Rollout])
    """Those of the rows that are not on record yet."""


@dataclass(kw_only=True, eq=False)
class LateAnswers:
    """The groups of one run that experts were asked about."""

    labeller: Labeller
    deadline_s: float | None
    """Longest wait of a step for an expert that has no deadline of its own; None for as long as a
    question may take."""
    join_within: int
    """Most versions that a row may be behind the policy that trains on it."""
    lineage: str = ""
    """Names repeated questions: their first tickets may have ended with an earlier lineage."""
    refresh_s: float = _REFRESH_S
    """Seconds between two looks at which experts can be reached."""
    groups: list[Group] = field(default_factory=list[Group])
    _down: frozenset[str] = frozenset()
    _looked_at: float | None = None
    _awaited: Counter[str] = field(default_factory=Counter[str])
    """Groups whose step waits for an expert, by expert."""
    _early: dict[tuple[str, str], _Part] = field(default_factory=dict[tuple[str, str], "_Part"])
    """Answers about attempts whose group is not whole yet, by rollout and expert."""
    _filling: dict[str, asyncio.Task[Answers]] = field(
        default_factory=dict[str, "asyncio.Task[Answers]"]
    )
    """The question to each expert about what it missed."""
    _counts: Counter[str] = field(default_factory=Counter[str])
    _behind: list[int] = field(default_factory=list[int])

    async def ask_early(self, attempts: Sequence[Attempt]) -> None:
        """Asks about attempts whose views do not depend on their siblings.

        `ask` takes these answers when the group is whole.
        """
        if self.labeller.experts:
            await self._look()
        in_view = self.labeller.views(attempts)
        for expert in self.labeller.experts:
            if expert.name not in self._down and any(expert.is_asked(view) for view in in_view):
                asking = self.labeller.ask_expert(expert, attempts, in_view)
                task = asyncio.create_task(asking)
                for i, attempt in enumerate(attempts):
                    self._early[attempt.rollout.rollout_id, expert.name] = task, i

    async def ask(self, step: int, attempts: Sequence[Attempt]) -> Group:
        """Asks every expert about a group; returns at the deadline, or when all have answered."""
        group = Group(step=step, attempts=attempts, in_view=self.labeller.views(attempts))
        if self.labeller.experts:
            await self._look()
        for expert in self.labeller.experts:
            num_asked = sum(expert.is_asked(view) for view in group.in_view)
            if not num_asked:
                continue
            if early := self._asked_early(group, expert):
                group.tasks[expert.name] = asyncio.create_task(_together(early))
            elif expert.name in self._down:
                group.tasks[expert.name] = None
                self._counts["skipped"] += num_asked
            else:
                self._start(group, expert)
        self.groups.append(group)
        await asyncio.gather(*(self._wait(group, expert) for expert in self.labeller.experts))
        return group

    def _asked_early(self, group: Group, expert: ExpertUse) -> list[_Part | None]:
        """The questions about the group's attempts; empty where one that is needed is missing."""
        ids = [attempt.rollout.rollout_id for attempt in group.attempts]
        parts = [self._early.pop((one, expert.name), None) for one in ids]
        missing = [
            part is None and expert.is_asked(view)
            for part, view in zip(parts, group.in_view, strict=True)
        ]
        if not any(missing):
            return parts
        # The expert was down for a while; the whole group is asked, under the same keys.
        for part in parts:
            if part is not None:
                part[0].cancel()
        return []

    async def _wait(self, group: Group, expert: ExpertUse) -> None:
        """Waits for one expert's answers until its deadline."""
        task = group.tasks.get(expert.name)
        deadline_s = self.deadline_s if expert.deadline_s is None else expert.deadline_s
        if task is not None:
            self._awaited[expert.name] += 1
            await asyncio.wait([task], timeout=deadline_s)
            self._awaited[expert.name] -= 1
            self._fill(expert)

    def on_time(self, group: Group) -> list[Labelled] | None:
        """The group's rows for its own step; None where it waits for a first answer."""
        if not group.is_ready(self.labeller.experts):
            return None
        return self._first_rows(group, group.step)

    async def wait_for_one(self, groups: Sequence[Group]) -> None:
        """Waits until one of the groups is ready, at most as long as a question may take.

        Groups that are not ready then go on without the answers that are missing.
        """
        clock = asyncio.get_running_loop().time
        end = clock() + self.labeller.timeout_s
        while not any(group.is_ready(self.labeller.experts) for group in groups):
            if clock() >= end:
                for group in groups:
                    came = {name: group.tasks[name] for name in group.arrived()}
                    for name in came:
                        del group.tasks[name]
                    self._give_up(group, "unavailable", "the expert could not be reached")
                    group.tasks |= came
                return
            await self._fill_all()
            running = [task for group in groups for task in group.running]
            pause_s = min(self.refresh_s, end - clock())
            if running:
                await asyncio.wait(running, timeout=pause_s, return_when=asyncio.FIRST_COMPLETED)
            else:
                await asyncio.sleep(pause_s)

    async def join(self, step: int, *, prefix: str, room: int) -> Joined:
        """Rows of earlier steps whose answers have come since.

        Args:
            step: The step whose batch they join.
            prefix: Prefix of the ids of new rollouts.
            room: Most rows; a group joins whole, and at least one.
        """
        for group in self.groups:
            if step - group.version_step > self.join_within:
                self._counts["dropped"] += self._num_awaited(group)
                self._give_up(group, "stale", f"it is more than {self.join_within} versions late")
        await self._fill_all()
        joined = Joined()
        for number, group in enumerate(self.groups):
            is_ready = group.step < step and group.tasks and group.is_ready(self.labeller.experts)
            if not is_ready:
                continue
            if joined.rows and len(joined.rows) + len(group.attempts) > room:
                break
            rows = self._late_rows(group, step, GROUPS_FROM + number, prefix, joined)
            self._behind += [step - group.version_step] * len(rows)
        return joined

    def unused(self, step: int) -> list[Group]:
        """What a run needs that goes on with this step: groups of earlier steps with answers that
        no earlier batch used. Their experts are asked again."""
        found: list[Group] = []
        for group in self.groups:
            used = [use for use in group.used if use.step < step]
            owed = {*group.tasks, *(e for u in group.used if u.step >= step for e in u.answered)}
            if group.step < step and owed:
                found.append(replace(group, used=used, tasks=dict.fromkeys(sorted(owed))))
        return found

    def trained(self, step: int) -> None:
        """Forgets groups of which nothing is awaited, and whose uses have trained."""
        self.groups = [g for g in self.groups if g.tasks or any(u.step > step for u in g.used)]

    def metrics(self) -> dict[str, float]:
        """Counts since the last call."""
        behind, self._behind = self._behind, []
        counts, self._counts = self._counts, Counter()
        return {
            "late/joined": float(len(behind)),
            "late/behind": sum(behind) / len(behind) if behind else 0.0,
            "late/dropped": float(counts["dropped"]),
            "late/skipped": float(counts["skipped"]),
            "late/waiting": float(sum(map(self._num_awaited, self.groups))),
        }

    async def close(self) -> None:
        """Ends all questions that are still awaited."""
        running = [task for group in self.groups for task in group.running]
        early = [task for task, _ in self._early.values()]
        for task in (*running, *early):
            task.cancel()
        await asyncio.gather(*running, *early, return_exceptions=True)

    def _first_rows(self, group: Group, step: int) -> list[Labelled]:
        arrived = group.take(step)
        return [
            labelled(attempt, view, _of(arrived, i))
            for i, (attempt, view) in enumerate(zip(group.attempts, group.in_view, strict=True))
        ]

    def _late_rows(
        self, group: Group, step: int, number: int, prefix: str, joined: Joined
    ) -> list[Labelled]:
        """Adds the group's rows to `joined`, and returns them."""
        if not group.used:
            rows = [_in_group(row, number) for row in self._first_rows(group, step)]
            joined.rows.extend(rows)
            return rows
        rows = self._further_rows(group, step, number, f"{prefix}-late-{len(joined.rows)}")
        joined.rows.extend(rows)
        joined.rollouts.extend(row.attempt.rollout for row in rows)
        return rows

    def _further_rows(self, group: Group, step: int, number: int, prefix: str) -> list[Labelled]:
        """Rows of attempts that have trained, with the answers that came since."""
        before = [self._weight(group.used, i) for i in range(len(group.attempts))]
        arrived = group.take(step)
        answered = [i for i in range(len(group.attempts)) if _of(arrived, i)]
        ids = {group.attempts[i].rollout.rollout_id: f"{prefix}-{i}" for i in answered}
        rows: list[Labelled] = []
        for i in answered:
            attempt, view = group.attempts[i], group.in_view[i]
            rollout = replace(
                attempt.rollout,
                rollout_id=ids[attempt.rollout.rollout_id],
                group_id=f"late/{attempt.rollout.group_id}",
                group=number,
                step=step,
            )
            row = labelled(
                Attempt(rollout=rollout, items=(), task=NOT_JUDGED),
                # The rows that stand for them in this batch, where they have one.
                InView(view.items, frozenset(ids.get(one, one) for one in view.uses)),
                _of(arrived, i),
            )
            now = self._weight(group.used[-1:], i)
            factor = now / before[i] if before[i] else 1.0
            rows.append(row if row.target is None else _scaled(row, row.target, factor))
        return rows

    def _weight(self, uses: Sequence[Use], i: int) -> float:
        """Together, of the experts that answered about an attempt."""
        weights = {expert.name: expert.weight for expert in self.labeller.experts}
        return sum(
            weights[name] for use in uses for name, answered in use.answered.items() if answered[i]
        )

    def _start(self, group: Group, expert: ExpertUse, again: str = "") -> asyncio.Task[Answers]:
        asking = self.labeller.ask_expert(expert, group.attempts, group.in_view, again=again)
        group.tasks[expert.name] = task = asyncio.create_task(asking)
        return task

    async def _fill_all(self) -> None:
        """Has experts that can be reached asked about what they were not asked."""
        experts = self.labeller.experts
        if any(self._is_owed(group, expert) for group in self.groups for expert in experts):
            await self._look()
        for expert in experts:
            self._fill(expert)

    def _fill(self, expert: ExpertUse) -> None:
        """Asks about one group that an expert missed, unless a step waits for the expert.

        The newest is first: the oldest would be dropped first.
        """
        filling = self._filling.get(expert.name)
        is_busy = self._awaited[expert.name] or (filling is not None and not filling.done())
        owed = [group for group in self.groups if self._is_owed(group, expert)]
        if expert.name in self._down or is_busy or not owed:
            return
        task = self._filling[expert.name] = self._start(owed[-1], expert, again=self.lineage)
        # Not after a cancellation: then the run ends, or the next step goes on.
        task.add_done_callback(lambda done: None if done.cancelled() else self._fill(expert))

    def _is_owed(self, group: Group, expert: ExpertUse) -> bool:
        return expert.name in group.tasks and group.tasks[expert.name] is None

    async def _look(self) -> None:
        now = asyncio.get_running_loop().time()
        if self._looked_at is not None and now - self._looked_at < self.refresh_s:
            return
        self._looked_at = now
        known = (await self.labeller.gateway.experts()).services
        self._down = frozenset(one.name for one in known if one.state == "unreachable")

    def _give_up(self, group: Group, code: str, reason: str) -> None:
        """Waits for none of its answers any more; they are counted like other missing answers."""
        if not group.tasks:
            return
        self.labeller.dropped[code] += self._num_awaited(group)
        self.labeller.reasons[code] = reason
        for task in group.running:
            task.cancel()
        group.tasks.clear()

    def _num_awaited(self, group: Group) -> int:
        return sum(
            expert.is_asked(view)
            for expert in self.labeller.experts
            if expert.name in group.tasks
            for view in group.in_view
        )


async def _together(parts: Sequence[_Part | None]) -> Answers:
    """The answers about a group, of questions about parts of it; None for what was not asked."""
    await asyncio.gather(*{part[0] for part in parts if part is not None})
    return [None if part is None else part[0].result()[part[1]] for part in parts]


def _of(arrived: dict[str, Answers], i: int) -> list[WeightedAnswer]:
    """The answers about one attempt."""
    return [one for answers in arrived.values() if (one := answers[i]) is not None]


def _in_group(row: Labelled, number: int) -> Labelled:
    attempt = row.attempt
    return replace(row, attempt=replace(attempt, rollout=replace(attempt.rollout, group=number)))


def _scaled(row: Labelled, target: Target, factor: float) -> Labelled:
    components = tuple(replace(c, weight_T=c.weight_T * factor) for c in target.components)
    return replace(row, target=replace(target, components=components))
