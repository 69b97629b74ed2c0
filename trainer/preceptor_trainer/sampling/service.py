"""A sampler in another process, such as vLLM's, behind `POST /v1/generate`.

    RunConfig(sampler=SampledByService(url="http://127.0.0.1:8106", key_file=Path("vllm.key")))

The service is offered each version of the weights before it samples from it, and reads them from
the run's folder. It must have the student's vocabulary, and must name the version that it drew
from: a response of other weights, or with log-probs of another distribution, would be trained as if
the policy had written it.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from preceptor_clients.contract.errors import AnswerRefused, ServiceFailed, from_problem
from preceptor_clients.contract.generation import (
    GenerateAnswer,
    GenerateCall,
    GenerateQuery,
    GenerateResult,
    Sampling,
    SleepCall,
)
from preceptor_clients.contract.schemas import Prompt, WantedWeights, WeightsOffer
from preceptor_clients.http.service import ServiceClient
from preceptor_clients.kit.files import read_key_file
from preceptor_trainer.sampling.drawn import as_generation, check_drawn, seeds_of
from preceptor_trainer.sampling.params import SamplingParams
from preceptor_trainer.sampling.sampler import Generation, Published, SampleRequest


@dataclass(frozen=True, kw_only=True)
class SampledByService:
    """Where the service is; makes a run's sampler."""

    url: str
    key_file: Path | None = None
    """File with the service's key."""
    timeout_s: float = 600.0
    """Longest wait for one call, which draws the responses to some of a step's prompts."""
    sleeps: bool = False
    """Whether it gives up its memory while the trainer updates."""

    def __call__(self, policy: Any) -> ServiceSampler:
        """The sampler of this policy, which has a vocabulary and end tokens.

        Raises:
            ValueError: the key file is missing or not valid.
        """
        key = None if self.key_file is None else read_key_file(self.key_file)
        return ServiceSampler(
            self,
            key,
            vocab_fingerprint=policy.vocab_fingerprint,
            vocab_size=policy.vocab_size,
            end_ids=policy.end_ids,
        )


class ServiceSampler:
    """Draws responses from a service; see `Sampler`."""

    def __init__(
        self,
        service: SampledByService,
        key: str | None,
        *,
        vocab_fingerprint: str,
        vocab_size: int,
        end_ids: Collection[int],
    ) -> None:
        self._service = service
        self._key = key
        self._vocab_fingerprint = vocab_fingerprint
        self._vocab_size = vocab_size
        self._end_ids = frozenset(end_ids)
        self._version: str | None = None

    @property
    def version(self) -> str:
        """The offered version."""
        assert self._version is not None, "no version was loaded"
        return self._version

    @property
    def sleeps(self) -> bool:
        """Whether the service leaves its memory to the update."""
        return self._service.sleeps

    async def sleep(self) -> None:
        """Puts the service's model to sleep.

        Raises:
            PreceptorError: it does not sleep, or is not there.
        """
        async with self._client() as client:
            await client.sleep(SleepCall(asleep=True), self._service.timeout_s)

    async def wake(self) -> None:
        """Wakes it.

        Raises:
            PreceptorError: it does not wake, or is not there.
        """
        async with self._client() as client:
            await client.sleep(SleepCall(asleep=False), self._service.timeout_s)

    async def takes_adapters(self) -> bool:
        """Whether the service says so.

        Raises:
            PreceptorError: the service is not there.
        """
        async with self._client() as client:
            return (await client.info()).capabilities.adapters

    async def load(self, published: Published) -> None:
        """Offers a version; the service reads it when it first samples from it.

        Raises:
            ValueError: the version was not published as files.
            PreceptorError: the service refused it, or is not there.
        """
        if published.manifest is None:
            raise ValueError(f"weights {published.version} were not published for a service")
        if self.sleeps and self._version is None:  # tried, so that what cannot is refused now
            await self.sleep()
            await self.wake()
        base = () if published.base is None else (published.base,)
        async with self._client() as client:
            await client.offer_weights(WeightsOffer(manifests=(*base, published.manifest)))
        self._version = published.version

    async def sample(self, request: SampleRequest) -> list[list[Generation]]:
        """Like `Sampler.sample`.

        Log-probs of forced tokens are NaN: the service does not score what it is given.

        Raises:
            PreceptorError: the service failed, or its responses are not of the wanted policy.
        """
        seeds = seeds_of(request)
        forced = request.forced_prefixes or [()] * len(request.prompts)
        queries = [
            self._query([*prompt, *prefix], request, seed)
            for prompt, prefix, seed in zip(request.prompts, forced, seeds, strict=True)
        ]

        def responses(first: int, answers: Sequence[GenerateAnswer]) -> list[list[Generation]]:
            """Those of the prompts from `first` on."""
            drawn: list[list[Generation]] = []
            for prompt, answer in enumerate(answers, first):
                self._check(answer, request)
                drawn.append([as_generation(one, forced[prompt]) for one in answer.responses])
                for number, generation in enumerate(drawn[-1]):
                    if request.on_finished is not None:
                        request.on_finished(prompt, number, generation)
            return drawn

        return await self._ask(queries, responses)

    async def _ask(
        self,
        queries: Sequence[GenerateQuery],
        responses: Callable[[int, Sequence[GenerateAnswer]], list[list[Generation]]],
    ) -> list[list[Generation]]:
        """As many calls at a time as the service takes, of equal sizes."""
        async with self._client() as client:
            limits = (await client.info()).limits
            size = min(limits.max_batch, math.ceil(len(queries) / limits.max_concurrency))
            room = asyncio.Semaphore(limits.max_concurrency)

            async def one(first: int) -> list[list[Generation]]:
                async with room:
                    call = GenerateCall(queries=tuple(queries[first : first + size]))
                    reply = await client.generate(call, self._service.timeout_s)
                return responses(first, [_answer(result) for result in reply.results])

            calls = [one(first) for first in range(0, len(queries), size)]
            return [group for groups in await asyncio.gather(*calls) for group in groups]

    def _client(self) -> ServiceClient:
        return ServiceClient(self._service.url, self._key, max_concurrency=256)

    def _query(self, ids: Sequence[int], request: SampleRequest, seed: int) -> GenerateQuery:
        return GenerateQuery(
            prompt=Prompt(ids=np.array(ids, np.int32)),
            sampling=_sampling(request.params, seed),
            count=request.num_samples,
            vocab_fingerprint=self._vocab_fingerprint,
            weights=WantedWeights(mode="exact", version=self.version),
        )

    def _check(self, answer: GenerateAnswer, request: SampleRequest) -> None:
        """Refuses responses that the policy did not write.

        Raises:
            AnswerRefused: with the field and what is wrong.
        """
        if not answer.weights_before == answer.weights_after == self.version:
            told = f"{answer.weights_before} to {answer.weights_after}"
            raise AnswerRefused("weights_before", f"drawn from {told}, not from {self.version}")
        if answer.vocab_fingerprint != self._vocab_fingerprint:
            raise AnswerRefused("vocab_fingerprint", "is of another vocabulary than the student's")
        if len(answer.responses) != request.num_samples:
            raise AnswerRefused(
                "responses", f"has {len(answer.responses)} for {request.num_samples} wanted"
            )
        for number, drawn in enumerate(answer.responses):
            check_drawn(
                f"responses[{number}]",
                drawn,
                longest=request.params.max_new_tokens,
                vocab_size=self._vocab_size,
                end_ids=self._end_ids,
            )


def _sampling(params: SamplingParams, seed: int) -> Sampling:
    return Sampling(
        temperature=params.temperature,
        top_p=params.top_p,
        top_k=params.top_k,
        max_new_tokens=params.max_new_tokens,
        seed=seed,
    )


def _answer(result: GenerateResult) -> GenerateAnswer:
    if result.answer is not None:
        return result.answer
    if result.problem is None:
        raise ServiceFailed("the sampler gave neither an answer nor a problem")
    raise from_problem(result.problem)
