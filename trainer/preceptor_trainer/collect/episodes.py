"""Attempts of several turns: the student writes, an environment answers, the student goes on.

The response of such a rollout is one sequence: every turn of the student as it was drawn, and
between two turns the ids of what it was told. Those are in the prefix of what follows, and are not
`owned`: no target, no score term. Nothing that was drawn is ever rendered again; the chat template
is used for what stands between two turns alone (`ChatEncoder.reply_ids`).

All attempts take their turns together, so that each turn is one batch of the sampler. The limit of
tokens is for the whole response, so that prompt and response fit into the model's positions.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal, TypeAlias

import numpy as np
import torch

from preceptor_clients.contract.arrays import MISSING
from preceptor_clients.contract.errors import PreceptorError
from preceptor_clients.contract.schemas import Episode, Message
from preceptor_trainer.collect.rollouts import Rollout
from preceptor_trainer.environments.environment import (
    Chat,
    Dialogue,
    Environment,
    Full,
    Outcome,
    Session,
    Unreachable,
)
from preceptor_trainer.kit.together import together
from preceptor_trainer.learner.policy import Policy
from preceptor_trainer.sampling.params import SamplingParams
from preceptor_trainer.sampling.sampler import Generation, Sampler, SampleRequest
from preceptor_trainer.tasks.task import OtherChat, Problem

_log: Final = logging.getLogger("preceptor.trainer")


@dataclass(frozen=True, kw_only=True, eq=False)
class RolloutRequest:
    """A request for the rollouts of one step, or of a part of it."""

    problems: Sequence[Problem]
    payloads: Sequence[str]
    """SHA-256 of each problem's payload, which is stored at the gateway."""
    num_samples: int
    """Rollouts of each problem: the size of a group."""
    params: SamplingParams
    generator: torch.Generator
    prefix: str
    """Prefix of the rollouts' ids: `{prefix}-{problem}-{sample}`."""
    step: int
    on_finished: Callable[[Rollout], None] | None = None
    """Takes a rollout as soon as it has ended, while others are still made. Not every source of
    rollouts calls it for every rollout; all are returned at the end."""


@dataclass(kw_only=True, eq=False)
class _Attempt:
    """One attempt while it is made."""

    rollout_id: str
    group: int
    problem: Problem
    payload_sha256: str
    limit: int
    """Most tokens of the response."""
    session: Session | None = None
    prompt_ids: list[int] = field(default_factory=list[int])
    ids: list[int] = field(default_factory=list[int])
    logprobs: list[float] = field(default_factory=list[float])
    owned: list[bool] = field(default_factory=list[bool])
    turns: list[dict[str, str]] = field(default_factory=list[dict[str, str]])
    finish_reason: Literal["stop", "length"] = "stop"
    outcome: Outcome = field(default_factory=Outcome)
    failure: str | None = None
    runs: bool = True
    is_waiting: bool = False
    """Whether there was no place for it yet."""

    @property
    def room(self) -> int:
        """Tokens that the response may still get."""
        return self.limit - len(self.ids)

    @property
    def chat(self) -> list[dict[str, str]]:
        """All messages so far."""
        return [*self.problem.messages, *self.turns]

    def end(self, finish_reason: Literal["stop", "length"]) -> None:
        """No further turn."""
        self.runs, self.finish_reason = False, finish_reason

    def wrote(self, generation: Generation, text: str) -> None:
        """Takes a turn of the student."""
        ids = generation.response_ids[: self.room].tolist()
        cut = len(ids) < len(generation.response_ids)
        self.ids += ids
        self.logprobs += generation.logprobs[: len(ids)].tolist()
        self.owned += [True] * len(ids)
        self.turns.append({"role": "assistant", "content": text})
        if cut or generation.finish_reason == "length":
            self.end("length")

    def read(self, ids: Sequence[int], messages: Chat) -> None:
        """Takes what the student reads before its next turn; without room for that turn it ends."""
        if len(ids) >= self.room:
            self.end("length")
            return
        self.ids += ids
        self.logprobs += [MISSING] * len(ids)
        self.owned += [False] * len(ids)
        self.turns += messages


Decode: TypeAlias = Callable[[Sequence[int]], str]


@dataclass(kw_only=True, eq=False)
class Episodes:
    """Makes attempts of several turns with one policy, sampler and environment."""

    dialogue: Dialogue
    environment: Environment
    policy: Policy
    sampler: Sampler

    async def rollouts(self, request: RolloutRequest) -> list[Rollout]:
        """One group of rollouts per problem; an attempt that nothing answered has a `failure`."""
        attempts = [
            _Attempt(
                rollout_id=f"{request.prefix}-{g}-{i}",
                group=g,
                problem=problem,
                payload_sha256=payload,
                limit=request.params.max_new_tokens,
            )
            for g, (problem, payload) in enumerate(
                zip(request.problems, request.payloads, strict=True)
            )
            for i in range(request.num_samples)
        ]
        pending, at_a_time = attempts, self.environment.max_sessions or len(attempts)
        while pending:
            some, rest = pending[:at_a_time], pending[at_a_time:]
            await self._play(some, request)
            waiting = [attempt for attempt in some if attempt.is_waiting]
            if waiting:  # as many as had a place now; the server has no more
                at_a_time = max(1, len(some) - len(waiting))
            pending = [*waiting, *rest]
        return [self._rollout(attempt, request) for attempt in attempts]

    async def _play(self, attempts: Sequence[_Attempt], request: RolloutRequest) -> None:
        try:
            await _together(self._open(attempt) for attempt in attempts)
            for turn in range(self.dialogue.max_turns):
                running = [attempt for attempt in attempts if attempt.runs]
                if not running:
                    break
                await self._write(running, request)
                is_last = turn + 1 == self.dialogue.max_turns
                await _together(self._answer(a, is_last=is_last) for a in running)
                self._show_finished(running, request)
        finally:
            # Shielded: a session that stays open when a run is stopped would fill the server.
            await asyncio.shield(asyncio.gather(*(_close(attempt) for attempt in attempts)))

    def _show_finished(self, attempts: Sequence[_Attempt], request: RolloutRequest) -> None:
        if request.on_finished is None:
            return
        for attempt in attempts:
            if not attempt.runs and attempt.failure is None:
                request.on_finished(self._rollout(attempt, request))

    async def _open(self, attempt: _Attempt) -> None:
        attempt.runs, attempt.is_waiting = True, False
        try:
            attempt.session = session = await self.environment.open(
                attempt.problem, attempt.rollout_id
            )
        except Full:
            attempt.runs, attempt.is_waiting = False, True
            return
        except Unreachable as error:
            self._fail(attempt, str(error))
            return
        if session.opening:
            before = () if session.opening_is_chat else attempt.problem.messages
            chat = _joined(before, session.opening)
            attempt.problem = OtherChat(original=attempt.problem, messages=chat)
        try:
            attempt.prompt_ids = self.policy.encode(attempt.problem.messages)
        except PreceptorError as error:  # the template refuses what the environment said
            self._fail(attempt, str(error))
            return
        most = self.policy.max_positions
        if most is not None and len(attempt.prompt_ids) + attempt.limit > most:
            self._fail(
                attempt,
                f"the first observation makes a prompt of {len(attempt.prompt_ids)} tokens, which "
                f"with a response of {attempt.limit} exceeds the model's {most} positions",
            )

    async def _write(self, running: Sequence[_Attempt], request: RolloutRequest) -> None:
        """One turn of every attempt."""
        for limit, some in self._by_limit(running):
            groups = await self.sampler.sample(
                SampleRequest(
                    prompts=[[*a.prompt_ids, *a.ids] for a in some],
                    params=replace(request.params, max_new_tokens=limit),
                    generator=request.generator,
                )
            )
            for attempt, [generation] in zip(some, groups, strict=True):
                drawn: list[int] = generation.response_ids[: attempt.room].tolist()
                attempt.wrote(generation, self.policy.decode(drawn))

    def _by_limit(self, running: Sequence[_Attempt]) -> list[tuple[int, list[_Attempt]]]:
        """Attempts that are drawn together, with the most tokens of their turns.

        The attempt with most room decides; a longer turn than an attempt has room for is cut, which
        is the same as not drawing the rest. Only where a model's positions end before, an attempt
        is drawn by itself.
        """
        turn_tokens, most = self.dialogue.turn_tokens, self.policy.max_positions
        limits = {a.rollout_id: min(turn_tokens or a.room, a.room) for a in running}
        longest = max(limits.values())

        def limit_of(attempt: _Attempt) -> int:
            used = len(attempt.prompt_ids) + len(attempt.ids)
            fits = most is None or used + longest <= most
            return longest if fits else limits[attempt.rollout_id]

        together: dict[int, list[_Attempt]] = {}
        for attempt in running:
            together.setdefault(limit_of(attempt), []).append(attempt)
        return list(together.items())

    async def _answer(self, attempt: _Attempt, *, is_last: bool) -> None:
        """Has the environment answer the turn that was just written."""
        assert attempt.session is not None
        text = attempt.turns[-1]["content"]
        try:
            if attempt.runs:
                await self._replied(attempt, attempt.session, text, is_last=is_last)
            else:  # cut off: what stands there is no whole turn
                await attempt.session.cut(text)
        except Unreachable as error:
            self._fail(attempt, str(error))
        if not attempt.runs:
            await _close(attempt)

    async def _replied(
        self, attempt: _Attempt, session: Session, text: str, *, is_last: bool
    ) -> None:
        reply = await session.reply(text, is_last=is_last)
        if is_last or not reply.messages:
            attempt.end("length" if reply.is_cut else "stop")
            return
        self._read(attempt, reply.messages)
        if not attempt.runs and attempt.failure is None:
            await session.cut("")

    def _read(self, attempt: _Attempt, messages: Chat) -> None:
        """Puts what the student is told behind its turn."""
        before, role = attempt.chat[:-1], self.dialogue.reply_role
        reason = ""
        for tried in ("tool", "user") if role is None else (role,):
            said = [m | {"role": tried} if m["role"] == "tool" else m for m in messages]
            try:
                attempt.read(self.policy.reply_ids(before, said), said)
                return
            except PreceptorError as error:
                reason = str(error)
        self._fail(attempt, reason)

    def _fail(self, attempt: _Attempt, reason: str) -> None:
        _log.warning("%s is not judged: %s", attempt.rollout_id, reason)
        attempt.failure = reason
        attempt.end("length")

    def _rollout(self, attempt: _Attempt, request: RolloutRequest) -> Rollout:
        outcome = attempt.outcome
        return Rollout(
            rollout_id=attempt.rollout_id,
            group_id=f"{request.prefix}-{attempt.group}",
            group=attempt.group,
            problem=attempt.problem,
            payload_sha256=attempt.payload_sha256,
            prompt_ids=attempt.prompt_ids,
            response_ids=np.asarray(attempt.ids, np.int32),
            response_text=self.policy.decode(attempt.ids),
            behaviour_logprobs=np.asarray(attempt.logprobs, np.float32),
            owned=np.asarray(attempt.owned, np.bool_),
            finish_reason=attempt.finish_reason,
            step=request.step,
            weights=self.sampler.version,
            failure=attempt.failure,
            episode=Episode(
                turns=tuple(Message.model_validate(_plain(turn)) for turn in attempt.turns),
                environment=outcome.environment,
                reward=outcome.reward,
                text=outcome.text,
                details=outcome.details,
            ),
        )


async def _together(awaited: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Awaits all; where one is cancelled or fails, ends the others before it returns."""
    async with together() as tasks:
        for one in awaited:
            tasks.create_task(one)


def _joined(messages: Chat, opening: Chat) -> list[dict[str, str]]:
    """Both, as one turn where two of one role meet: many templates refuse two in a row."""
    first, *rest = opening
    if not messages or messages[-1]["role"] != first["role"]:
        return [*messages, *opening]
    text = f"{messages[-1]['content']}\n\n{first['content']}"
    return [*messages[:-1], messages[-1] | {"content": text}, *rest]


def _plain(turn: dict[str, str]) -> dict[str, str]:
    return {"role": turn["role"], "content": turn["content"]}


async def _close(attempt: _Attempt) -> None:
    """Takes the outcome and closes the session, once."""
    session, attempt.session = attempt.session, None
    if session is not None:
        attempt.outcome = session.outcome()
        await session.close()
