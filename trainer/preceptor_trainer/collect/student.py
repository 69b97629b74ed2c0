"""The student in the collecting stage: from problems to rollouts, at one version.

Its model is apart from the policy's, so that the optimiser can continue while it samples; its
weights are the published tensors. It also computes the student's own distributions. A `Sampler`
draws the responses.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeAlias

import numpy as np
import torch
from torch import nn

from preceptor_trainer.collect.candidates import student_entropy, student_top_k
from preceptor_trainer.collect.episodes import Episodes, RolloutRequest
from preceptor_trainer.collect.rollouts import Rollout
from preceptor_trainer.environments.environment import Dialogue, Environment
from preceptor_trainer.learner.policy import Policy
from preceptor_trainer.model.weights import take_weights
from preceptor_trainer.sampling.in_process import InProcessSampler
from preceptor_trainer.sampling.params import SamplingParams
from preceptor_trainer.sampling.sampler import (
    Generation,
    Published,
    Sampler,
    SampleRequest,
    SleepingSampler,
)
from preceptor_trainer.tasks.task import Problem

MakeSampler: TypeAlias = Callable[[Policy], Sampler]
"""Makes a sampler from the policy, which has tokenizer, end token and vocabulary."""


class Student:
    """The policy at one version."""

    def __init__(
        self,
        policy: Policy,
        make_sampler: MakeSampler | None = None,
        *,
        dialogue: Dialogue | None = None,
        environment: Environment | None = None,
    ) -> None:
        """A student without a version.

        Args:
            policy: Tokenizer and model.
            make_sampler: None draws in this process.
            dialogue: How far attempts of several turns may go; None for attempts of one turn.
            environment: Who answers in a dialogue.
        """
        self._policy = policy
        self._model: nn.Module = policy.new_model()
        self._version: str | None = None
        self._drawing = asyncio.Lock()
        self._shares_model = make_sampler is None
        self._sampler: Sampler = (
            InProcessSampler(
                self._model,
                end_ids=policy.end_ids,
                pad_id=policy.pad_id,
                vocab_size=policy.vocab_size,
            )
            if make_sampler is None
            else make_sampler(policy)
        )

        self._episodes = (
            Episodes(
                dialogue=dialogue, environment=environment, policy=policy, sampler=self._sampler
            )
            if dialogue is not None and environment is not None
            else None
        )

    async def takes_adapters(self) -> bool:
        """Whether its sampler can load versions whose files are an adapter."""
        return await self._sampler.takes_adapters()

    @property
    def sleeps(self) -> bool:
        """Whether its sampler leaves its memory to the update."""
        return isinstance(self._sampler, SleepingSampler) and self._sampler.sleeps

    async def sleep(self) -> None:
        """Puts its sampler to sleep, where it is to."""
        if isinstance(self._sampler, SleepingSampler) and self._sampler.sleeps:
            await self._sampler.sleep()

    async def wake(self) -> None:
        """Wakes its sampler, where it may sleep; also one that an earlier run left asleep."""
        if isinstance(self._sampler, SleepingSampler) and self._sampler.sleeps:
            await self._sampler.wake()

    async def load(self, published: Published) -> None:
        """Loads a version."""
        await self.wake()
        if published.version != self._version:
            if not self._shares_model:
                await asyncio.to_thread(take_weights, self._model, published.tensors)
            await self._sampler.load(published)
            self._version = published.version

    @property
    def version(self) -> str:
        """The loaded version."""
        assert self._version is not None, "no version was loaded"
        return self._version

    @property
    def max_positions(self) -> int | None:
        """Most tokens of a prompt and its response; None where the model names no limit."""
        return self._policy.max_positions

    def chat_ids(self, messages: Sequence[dict[str, str]]) -> list[int]:
        """The ids of a chat, which the student continues."""
        return self._policy.encode(messages)

    def prompt_ids(self, problem: Problem) -> list[int]:
        """The ids of a problem's chat."""
        return self.chat_ids(problem.messages)

    def response_ids(self, text: str) -> list[int]:
        """The ids of a text as a complete response, the end token included."""
        return self._policy.response_ids(text)

    def text_of(self, ids: Sequence[int]) -> str:
        """Response ids as text, without control tokens."""
        return self._policy.decode(ids)

    async def with_candidates(self, rollouts: Sequence[Rollout], num_ids: int) -> list[Rollout]:
        """The rollouts with this version's `num_ids` most probable ids at every position."""
        candidates = await asyncio.to_thread(
            student_top_k,
            self._model,
            rollouts,
            num_ids,
            self._policy.vocab_size,
            self._policy.trunk,
        )
        return [replace(r, candidate_ids=c) for r, c in zip(rollouts, candidates, strict=True)]

    async def with_entropy(self, rollouts: Sequence[Rollout]) -> list[Rollout]:
        """The rollouts with this version's entropy at every position."""
        entropies = await asyncio.to_thread(
            student_entropy, self._model, rollouts, self._policy.vocab_size, self._policy.trunk
        )
        return [replace(r, entropy_T=h) for r, h in zip(rollouts, entropies, strict=True)]

    async def continuations(
        self,
        prompts: Sequence[Sequence[int]],
        forced_prefixes: Sequence[Sequence[int]] | None,
        *,
        params: SamplingParams,
        generator: torch.Generator,
    ) -> list[Generation]:
        """One response to each prompt, with given first tokens."""
        request = SampleRequest(
            prompts=prompts, params=params, generator=generator, forced_prefixes=forced_prefixes
        )
        return [generation for [generation] in await self._draw(request)]

    async def _draw(self, request: SampleRequest) -> list[list[Generation]]:
        # An evaluation samples its next problems while the policy judges the last ones.
        async with self._drawing:
            return await self._sampler.sample(request)

    async def rollouts(self, request: RolloutRequest) -> list[Rollout]:
        """One group of rollouts per problem."""
        if self._episodes is not None:
            return await self._episodes.rollouts(request)
        prompts = [self.prompt_ids(problem) for problem in request.problems]

        def rollout(g: int, i: int, generation: Generation) -> Rollout:
            return Rollout(
                rollout_id=f"{request.prefix}-{g}-{i}",
                group_id=f"{request.prefix}-{g}",
                group=g,
                problem=request.problems[g],
                payload_sha256=request.payloads[g],
                prompt_ids=prompts[g],
                response_ids=generation.response_ids,
                response_text=self._policy.decode(generation.response_ids.tolist()),
                behaviour_logprobs=generation.logprobs,
                owned=np.ones(len(generation.response_ids), np.bool_),
                finish_reason=generation.finish_reason,
                step=request.step,
                weights=self.version,
            )

        def finished(g: int, i: int, generation: Generation) -> None:
            assert request.on_finished is not None
            request.on_finished(rollout(g, i, generation))

        groups = await self._draw(
            SampleRequest(
                prompts=prompts,
                num_samples=request.num_samples,
                params=request.params,
                generator=request.generator,
                on_finished=None if request.on_finished is None else finished,
            )
        )
        return [
            rollout(g, i, generation)
            for g, group in enumerate(groups)
            for i, generation in enumerate(group)
        ]
