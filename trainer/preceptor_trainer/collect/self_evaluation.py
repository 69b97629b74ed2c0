"""The policy judges its own attempts, with the same rubrics and chats as a judge on a server.

    RunConfig(..., task=ScoredTask(sources=("self",)),
              self_evaluations=(SelfEvaluation(name="self", rubric=rubric),))

The version that wrote an attempt judges it: its sampler draws the reason of each criterion, then
the verdict, both greedily. Nothing is sent to a service. Self-evaluation rewards what the policy
believes, right or wrong; it is feedback for a teacher rather than a measure of progress.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from typing import Any, Final, Protocol

import torch
from pydantic import JsonValue

from preceptor_clients.contract.errors import PreceptorError, ServiceFailed
from preceptor_clients.contract.schemas import FeedbackAnswer, FeedbackItem, FeedbackOutcome
from preceptor_clients.sdk.rubrics.judging import Judgement, NotJudged, Said, judge
from preceptor_clients.sdk.rubrics.material import Material, last_turn
from preceptor_clients.sdk.rubrics.rubric import Rubric, remarks
from preceptor_trainer.collect.rollouts import Rollout
from preceptor_trainer.sampling.params import SamplingParams
from preceptor_trainer.sampling.sampler import Generation

_BATCH: Final = 32
"""Chats of one batch."""


@dataclass(frozen=True, kw_only=True)
class SelfEvaluation:
    """A source of the task that is the policy itself."""

    name: str
    """The source's name, which the task names."""
    rubric: Rubric
    """What it asks itself."""
    max_tokens: int = 128
    """Most tokens of one reason."""


class Draws(Protocol):
    """The student, as far as it judges itself."""

    @property
    def version(self) -> str:
        """The loaded version."""
        ...

    @property
    def max_positions(self) -> int | None:
        """Most tokens of a chat and its reply; None where there is no limit."""
        ...

    def chat_ids(self, messages: Sequence[dict[str, str]]) -> list[int]:
        """The ids of a chat, which the student continues."""
        ...

    def text_of(self, ids: Sequence[int]) -> str:
        """The ids as text, without control tokens."""
        ...

    async def continuations(
        self,
        prompts: Sequence[Sequence[int]],
        forced_prefixes: Sequence[Sequence[int]] | None,
        *,
        params: SamplingParams,
        generator: torch.Generator,
    ) -> list[Generation]:
        """One response to each prompt."""
        ...


@dataclass(frozen=True)
class _Question:
    ids: list[int]
    max_tokens: int
    reply: asyncio.Future[Said]


class Own:
    """The student as a model that answers chats; questions at the same time are one batch."""

    def __init__(self, student: Draws) -> None:
        self.student = student
        self._waiting: list[_Question] = []
        self._asking: set[asyncio.Task[None]] = set()

    async def say(
        self, chat: Sequence[dict[str, str]], *, max_tokens: int, schema: dict[str, Any] | None
    ) -> Said:
        """The reply to a chat; schemas are not enforced, so none may be given.

        Raises:
            ServiceFailed: the chat is longer than the model's context.
        """
        assert schema is None
        ids = self.student.chat_ids(chat)
        most = self.student.max_positions
        if most is not None and len(ids) + max_tokens > most:
            raise ServiceFailed(
                f"the chat has {len(ids)} tokens, and the student's context of {most} has no room "
                f"for {max_tokens} more"
            )
        reply: asyncio.Future[Said] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Question(ids, max_tokens, reply))
        if len(self._waiting) == 1:
            # The task begins after everybody who can ask now has asked.
            task = asyncio.create_task(self._ask_all())
            self._asking.add(task)
            task.add_done_callback(self._asking.discard)
        return await reply

    async def _ask_all(self) -> None:
        waiting, self._waiting = self._waiting, []
        by_room = sorted(waiting, key=lambda question: question.max_tokens)
        for max_tokens, group in groupby(by_room, key=lambda question: question.max_tokens):
            for some in _parts(list(group)):
                await self._ask(some, max_tokens)

    async def _ask(self, questions: Sequence[_Question], max_tokens: int) -> None:
        try:
            drawn = await self.student.continuations(
                [question.ids for question in questions],
                None,
                params=SamplingParams(top_k=1, max_new_tokens=max_tokens),
                generator=torch.Generator().manual_seed(0),
            )
        except Exception as error:  # whoever waits gets it: nobody awaits this task
            for question in questions:
                if not question.reply.done():
                    question.reply.set_exception(error)
            return
        for question, one in zip(questions, drawn, strict=True):
            said = Said(
                text=self.student.text_of(one.response_ids.tolist()),
                cut_off=one.finish_reason == "length",
                input_tokens=len(question.ids),
                output_tokens=len(one.response_ids),
            )
            if not question.reply.done():
                question.reply.set_result(said)


def _parts(questions: list[_Question]) -> Iterator[list[_Question]]:
    return (questions[i : i + _BATCH] for i in range(0, len(questions), _BATCH))


async def evaluate_own(
    evaluation: SelfEvaluation, student: Draws, rollouts: Sequence[Rollout]
) -> list[FeedbackOutcome]:
    """The student's judgement of each rollout, in order; equal responses are judged once."""
    model = Own(student)
    different = {_key(rollout): rollout for rollout in rollouts}
    outcomes = await asyncio.gather(
        *(_outcome(evaluation, model, rollout) for rollout in different.values())
    )
    found = dict(zip(different, outcomes, strict=True))
    return [_for(found[_key(rollout)], rollout, evaluation.name) for rollout in rollouts]


def _key(rollout: Rollout) -> tuple[str, str, str]:
    turns = "" if rollout.episode is None else rollout.episode.model_dump_json()
    return rollout.group_id, f"{rollout.response_text}{turns}", rollout.finish_reason


async def _outcome(evaluation: SelfEvaluation, model: Own, rollout: Rollout) -> FeedbackOutcome:
    began = time.monotonic()
    judgement, error = None, None
    try:
        material = _material(rollout, evaluation.rubric)
        judgement = await judge(
            model, evaluation.rubric, material, form="words", max_tokens=evaluation.max_tokens
        )
    except NotJudged as failure:
        error = str(failure)
    except PreceptorError as failure:
        return FeedbackOutcome(problem=failure.problem())
    version = f"{evaluation.rubric.version}@{model.student.version}"
    scored: dict[str, Any] = {"error": error}
    details: dict[str, JsonValue] = {"weights": model.student.version}
    if judgement is not None:
        scored = {
            "score": evaluation.rubric.score(judgement.verdicts),
            "text": remarks(judgement.verdicts),
        }
        details["verdicts"] = _verdicts(judgement)
    item = FeedbackItem(
        id="own",
        kind="judge",
        source=evaluation.name,
        version=version,
        details=details,
        **scored,
    )
    answer = FeedbackAnswer(
        items=(item,),
        source=evaluation.name,
        source_version=version,
        latency_ms=(time.monotonic() - began) * 1000,
    )
    return FeedbackOutcome(answer=answer)


def _for(outcome: FeedbackOutcome, rollout: Rollout, name: str) -> FeedbackOutcome:
    """The same with an id of this rollout's own."""
    if outcome.answer is None:
        return outcome
    [item] = outcome.answer.items
    own = item.model_copy(update={"id": f"{name}-{rollout.rollout_id}"})
    return FeedbackOutcome(answer=outcome.answer.model_copy(update={"items": (own,)}))


def _verdicts(judgement: Judgement) -> list[JsonValue]:
    return [asdict(verdict) for verdict in judgement.verdicts]


def _material(rollout: Rollout, rubric: Rubric) -> Material:
    row: Mapping[str, Any] = rollout.problem.payload
    for column in rubric.columns:
        if column not in row:
            raise ServiceFailed(f"the row has no column {column!r}; it has {', '.join(row)}")
    values = {column: row[column] for column in rubric.columns}
    turns = [] if rollout.episode is None else [t.model_dump() for t in rollout.episode.turns]
    earlier, response = last_turn(turns, rollout.response_text)
    return Material(
        prompt=[dict(message) for message in rollout.problem.messages],
        earlier=earlier,
        response=response,
        cut_off=rollout.finish_reason == "length",
        columns={c: v if isinstance(v, str) else json.dumps(v) for c, v in values.items()},
    )
