"""A run of the trainer's own collecting, labelling, schedules and objective, with simulated delays.

    result = await simulate(Overlapped(staleness=2, deadline_s=2.0), Delays(), steps=24)

The policy has free logits at every prefix (`theory/enumeration.py`). Sampling, judging, experts and
the optimiser's step take the seconds of `Delays` and next to no work, so that the time of the loop
is a property of the schedule. What answers is here; what asks, waits, joins and weighs is the
trainer's.
"""

from __future__ import annotations

import asyncio
import functools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import torch

from preceptor_clients.contract.schemas import (
    FeedbackAnswer,
    FeedbackItem,
    FeedbackSubmission,
    PrefixQuery,
    PrefixSubmission,
    Records,
)
from preceptor_clients.sdk.answers import Distributions, build_answer
from preceptor_trainer.collect.context import InView
from preceptor_trainer.collect.episodes import RolloutRequest
from preceptor_trainer.collect.labelling import ExpertUse, Labeller
from preceptor_trainer.collect.late_answers import LateAnswers
from preceptor_trainer.collect.rollout_sources import OnPolicy
from preceptor_trainer.collect.rollouts import Attempt, Rollout
from preceptor_trainer.model.batch import collate
from preceptor_trainer.model.heads.dense import student_statistics
from preceptor_trainer.objectives.distil import DistIL
from preceptor_trainer.run.collecting import Collected, Collector
from preceptor_trainer.run.schedules import Overlapped, Schedule
from preceptor_trainer.run.streaming import StreamedCollector
from preceptor_trainer.sampling.params import SamplingParams
from preceptor_trainer.tasks.task import RecordedProblem, ScoredTask
from preceptor_trainer.theory.enumeration import Floats, PrefixTable, TinyWorld, log_softmax

WORLD = TinyWorld()
GROUPS, GROUP_SIZE = 4, 4
OBJECTIVE = DistIL()
RATE = 1.0


@dataclass(frozen=True, kw_only=True)
class Expert:
    """How long one expert takes."""

    group_s: float
    """Seconds for a group; one that works on one call at a time takes a part of them for a part."""
    at_a_time: int = 1
    """Calls that it works on together."""
    down_until_s: float = 0.0
    """Seconds of the run before which it cannot be reached."""
    deadline_s: float | None = None
    """Longest wait of a step for it; None for the schedule's."""


@dataclass(frozen=True, kw_only=True)
class Delays:
    """Seconds that the stages take."""

    sampling_s: float = 0.6
    """All rollouts of a step, which end one after another."""
    rollout_judged_s: float = 0.04
    """One judgement; they are made one by one."""
    training_s: float = 0.5
    """The optimiser's step and what follows it."""
    experts: dict[str, Expert] = field(
        default_factory=lambda: {"first": Expert(group_s=0.25), "second": Expert(group_s=0.15)}
    )

    @property
    def stages(self) -> dict[str, float]:
        """Seconds of a step in each stage, of the experts that keep up."""
        return {
            "sampling": self.sampling_s,
            "feedback": self.rollout_judged_s * GROUPS * GROUP_SIZE,
            **{
                name: one.group_s * GROUPS
                for name, one in self.experts.items()
                if one.deadline_s != 0
            },
            "training": self.training_s,
        }


class Student:
    """Draws from the table of a version; rollouts end at equal distances of time."""

    sleeps = False

    def __init__(self, delays: Delays) -> None:
        self._delays = delays
        self.version = ""
        self._logits: Floats

    async def load(self, published: Any) -> None:
        self.version, self._logits = published.version, published.logits

    def chat_ids(self, messages: Sequence[dict[str, str]]) -> list[int]:
        del messages
        return [0]

    async def rollouts(self, request: RolloutRequest) -> list[Rollout]:
        seed = int(torch.randint(2**31 - 1, (1,), generator=request.generator))
        rng, logprobs_PV = np.random.default_rng(seed), log_softmax(self._logits)
        drawn: list[Rollout] = []
        for g, problem in enumerate(request.problems):
            for i in range(request.num_samples):
                await asyncio.sleep(self._delays.sampling_s / (GROUPS * GROUP_SIZE))
                drawn.append(self._rollout(request, problem, g, i, rng, logprobs_PV))
                if request.on_finished is not None:
                    request.on_finished(drawn[-1])
        return drawn

    def _rollout(
        self,
        request: RolloutRequest,
        problem: Any,
        g: int,
        i: int,
        rng: np.random.Generator,
        logprobs_PV: Floats,
    ) -> Rollout:
        tokens: list[int] = []
        logprobs: list[float] = []
        for _ in range(WORLD.horizon):
            state = WORLD.prefixes((*tokens, 0))[-1]
            p = np.exp(logprobs_PV[state])
            tokens.append(int(rng.choice(WORLD.num_tokens, p=p / p.sum())))
            logprobs.append(float(logprobs_PV[state, tokens[-1]]))
        return Rollout(
            rollout_id=f"{request.prefix}-{g}-{i}",
            group_id=f"{request.prefix}-{g}",
            group=g,
            problem=problem,
            payload_sha256="a" * 64,
            prompt_ids=[0],
            response_ids=np.array(tokens, np.int32),
            response_text="",
            behaviour_logprobs=np.array(logprobs, np.float32),
            owned=np.ones(WORLD.horizon, np.bool_),
            finish_reason="length",
            step=request.step,
            weights=self.version,
        )


class Gateway:
    """A source and experts that take their time; keeps what is recorded."""

    def __init__(self, delays: Delays) -> None:
        self._delays = delays
        self._began = asyncio.get_running_loop().time()
        self._source = asyncio.Semaphore(1)
        self._experts = {
            name: asyncio.Semaphore(one.at_a_time) for name, one in delays.experts.items()
        }
        self.recorded: Counter[str] = Counter()

    async def put_blob(self, body: bytes) -> str:
        del body
        return "a" * 64

    async def record(self, records: Records) -> None:
        del records

    async def experts(self) -> SimpleNamespace:
        elapsed_s = asyncio.get_running_loop().time() - self._began
        states = [
            SimpleNamespace(
                name=name, state="unreachable" if elapsed_s < one.down_until_s else "ready"
            )
            for name, one in self._delays.experts.items()
        ]
        return SimpleNamespace(services=states)

    async def feedback(
        self, source: str, submissions: Sequence[FeedbackSubmission], **options: Any
    ) -> list[SimpleNamespace]:
        async with self._source:
            await asyncio.sleep(self._delays.rollout_judged_s * len(submissions))
        return [_judged(source, submission) for submission in submissions]

    async def logprobs(
        self, name: str, submissions: Sequence[PrefixSubmission], **options: Any
    ) -> list[SimpleNamespace]:
        expert = self._delays.experts[name]
        groups = len(submissions) / GROUP_SIZE if expert.at_a_time == 1 else 1
        async with self._experts[name]:
            await asyncio.sleep(expert.group_s * groups)
        return [_answered(name, submission.query) for submission in submissions]


def _judged(source: str, submission: FeedbackSubmission) -> SimpleNamespace:
    rollout_id = submission.query.rollout_id
    item = FeedbackItem(id=rollout_id, kind="verdict", score=1.0, source=source, version="1")
    answer = FeedbackAnswer(items=(item,), source=source, source_version="1")
    return SimpleNamespace(answer=answer, problem=None, ticket=None)


def nothing_of_a_group(group: Sequence[Attempt]) -> list[InView]:
    """Fixed teachers, which are asked about whole groups, as teachers are that read siblings."""
    return [InView((), frozenset()) for _ in group]


class Quiet:
    """Shows no phases."""

    def phase(self, name: str) -> None:
        del name


@functools.cache
def teacher(name: str) -> Floats:
    """[P, V] of one expert."""
    return WORLD.random_teacher(100 + len(name))


def _answered(name: str, query: PrefixQuery) -> SimpleNamespace:
    tokens = tuple(int(token) for token in query.response_ids)
    probs_TV = teacher(name)[WORLD.prefixes(tokens)]
    answer = build_answer(
        query,
        Distributions(
            ids_PK=np.tile(np.arange(WORLD.num_tokens), (len(tokens), 1)),
            logprobs_PK=np.log(probs_TV),
            own_logprobs_P=None,
        ),
        expert=name,
        expert_version="1",
    )
    ticket = SimpleNamespace(answer_id=f"{name}/{query.rollout_id}")
    return SimpleNamespace(answer=answer, problem=None, ticket=ticket)


@dataclass(kw_only=True, eq=False)
class Result:
    """What became of a run."""

    seconds: float
    """From the first step's begin to the last one's end."""
    finished_s: list[float]
    """When each step had trained."""
    logits: list[Floats]
    """The policy before every step, and after the last one."""
    behind: list[list[int]]
    """For every step: versions that its rollouts were behind."""
    future: list[float]
    """For every step: mean size of the future term's weight over stale rollouts, in nats; NaN where
    none was stale."""
    late: Counter[str]
    """Sums of the metrics of late answers."""
    used: Counter[str]
    """How often each rollout trained."""
    answers: Counter[tuple[str, str]]
    """How often each expert's answer about a rollout as it was sampled trained."""


@dataclass(kw_only=True, eq=False)
class _Run:
    """The optimiser's side."""

    delays: Delays
    published: SimpleNamespace
    result: Result
    lineage: str = "l0"

    async def train(self, batch: Collected) -> bool:
        await asyncio.sleep(self.delays.training_s)
        step, logits = batch.at.step, self.published.logits
        rows = [
            row.train_rollout(on_policy=row.attempt.rollout.weights == self.published.version)
            for row in batch.labelled
        ]
        policy, collated = PrefixTable(torch.tensor(logits)), collate(rows)
        stats = student_statistics(policy, collated, OBJECTIVE.needs)
        (advantages,) = OBJECTIVE.advantages([stats], [collated])
        loss, _ = OBJECTIVE(stats, collated, advantages, OBJECTIVE.denominator([collated]))
        torch.autograd.backward(loss)
        assert policy.logits.grad is not None
        stale_B = ~collated.on_policy_B
        weight = advantages.advantage_BT[stale_B].abs().mean().item() if stale_B.any() else np.nan
        self._note(batch, step, float(weight))
        self._publish(step + 1, logits - RATE * policy.logits.grad.numpy())
        return True

    def _publish(self, step: int, logits: Floats) -> None:
        self.published = SimpleNamespace(version=f"run/{self.lineage}/{step}", logits=logits)
        self.result.logits.append(logits)

    def _note(self, batch: Collected, step: int, future: float) -> None:
        result, rollouts = self.result, [row.attempt.rollout for row in batch.labelled]
        result.finished_s.append(asyncio.get_running_loop().time())
        result.behind.append([step - int(r.weights.rsplit("/")[-1]) for r in rollouts])
        result.future.append(future)
        result.used.update(r.rollout_id for r in rollouts)
        result.answers.update(
            (component.expert, component.answer_id)
            for row in batch.labelled
            if row.target is not None
            for component in row.target.components
        )
        for name in ("joined", "dropped", "skipped"):
            result.late[name] += int(batch.late.get(f"late/{name}", 0))
        result.late["waiting"] = int(batch.late.get("late/waiting", 0))

    async def record_rollouts(self, rollouts: Sequence[Rollout], lineage: str) -> None:
        del rollouts, lineage


async def simulate(schedule: Schedule, delays: Delays, steps: int) -> Result:
    """Trains for so many steps; the clock is the event loop's."""
    clock = asyncio.get_running_loop().time
    first = WORLD.random_logits(0)
    result = Result(
        seconds=0.0,
        finished_s=[],
        logits=[first],
        behind=[],
        future=[],
        late=Counter(),
        used=Counter(),
        answers=Counter(),
    )
    published = SimpleNamespace(version="run/l0/0", logits=first)
    run = _Run(delays=delays, published=published, result=result)
    collector = _collector(schedule, delays, run)
    began = clock()
    await schedule.drive(range(steps), collector.collect, run.train)
    result.seconds = clock() - began
    await collector.close()
    return result


def _collector(schedule: Schedule, delays: Delays, run: _Run) -> Collector:
    experts = tuple(
        ExpertUse(name=name, needs_feedback=False, deadline_s=one.deadline_s)
        for name, one in delays.experts.items()
    )
    config = SimpleNamespace(
        name="run",
        seed=0,
        problems=_problems,
        sampling=SamplingParams(max_new_tokens=WORLD.horizon),
        rollouts_per_problem=GROUP_SIZE,
        rollout_source=OnPolicy(),
        dialogue=None,
        dynamic_sampling=None,
        self_evaluations=(),
        objective=OBJECTIVE,
        experts=experts,
        max_failed=0.0,
    )
    labeller = Labeller(
        gateway=cast("Any", Gateway(delays)),
        run="run",
        task=ScoredTask(sources=("judge",)),
        experts=experts,
        context=nothing_of_a_group,
        vocab_fingerprint="a" * 64,
        batching=schedule.batching,
    )
    parts: dict[str, Any] = {
        "config": config,
        "student": Student(delays),
        "labeller": labeller,
        "publisher": run,
        "journal": run,
        "progress": Quiet(),
    }
    if (overlapped := schedule.overlapped) is None:
        return Collector(**parts)
    return StreamedCollector(**parts, late=_late(overlapped, labeller, delays))


def _late(overlapped: Overlapped, labeller: Labeller, delays: Delays) -> LateAnswers:
    return LateAnswers(
        labeller=labeller,
        deadline_s=overlapped.deadline_s,
        join_within=overlapped.join_within,
        refresh_s=delays.training_s,
    )


def _problems(step: int) -> list[RecordedProblem]:
    message = {"role": "user", "content": "?"}
    return [RecordedProblem(id=f"{step}-{g}", messages=[message]) for g in range(GROUPS)]
