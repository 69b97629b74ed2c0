"""A run's sampler behind a model server that is not ours: any vLLM or SGLang server.

    RunConfig(sampler=SampledByServer(url="http://127.0.0.1:8000", kind="vllm"))

At the first version the server is asked what it is: tokenizer, kind of log-probs, whether it takes
weights. What it cannot do is refused with how to start it. Each version goes to it as files, or
from this process where the two share no files, and each draw is checked to be of that version.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

from preceptor_clients.contract.errors import AnswerRefused
from preceptor_clients.contract.generation import Generated
from preceptor_clients.http.connection import Transport
from preceptor_clients.kit.files import read_key_file
from preceptor_trainer.sampling.dialect import (
    PROBE,
    Calls,
    Dialect,
    Draw,
    Student,
    UnfitServer,
    WeightPath,
    manifest_of,
)
from preceptor_trainer.sampling.drawn import as_generation, check_drawn, seeds_of
from preceptor_trainer.sampling.sampler import Generation, Published, SampleRequest
from preceptor_trainer.sampling.sglang_server import SGLangServer
from preceptor_trainer.sampling.vllm_server import VLLMServer

ServerKind: TypeAlias = Literal["vllm", "sglang"]


@dataclass(frozen=True, kw_only=True)
class SampledByServer:
    """Where the server is; makes a run's sampler."""

    url: str
    kind: ServerKind
    key_file: Path | None = None
    """File with the server's key."""
    timeout_s: float = 600.0
    """Longest wait for one call: the responses to one prompt, or loading a version."""
    sleeps: bool = False
    """Whether it gives up its memory while the trainer updates."""
    shared: bool = False
    """Whether other runs draw from it too, each from adapters of its own."""
    weights: WeightPath = "files"
    """How it gets a version: by reading its files, or from the trainer's memory over the network,
    always as a whole: held at an address, or broadcast."""

    def __post_init__(self) -> None:
        if self.weights != "files" and self.kind != "vllm":
            raise ValueError(
                f"sampler.weights: only servers of vLLM's are sent weights; one of kind "
                f'{self.kind!r} reads files: leave out `weights`, or use kind = "vllm"'
            )
        if self.weights != "files" and self.shared:
            raise ValueError(
                "sampler.weights: whole versions are sent, and runs that share a server load "
                "adapters, which it reads from files; leave out `weights` or `shared`"
            )
        if self.shared and self.sleeps:
            raise ValueError(
                "sampler.sleeps: a server that several runs share does not sleep for one of them; "
                "leave out `sleeps` or `shared`"
            )

    def __call__(self, policy: Any) -> ServerSampler:
        """The sampler of this policy, which has a model, a tokenizer and end tokens.

        Raises:
            ValueError: the key file is missing or not valid.
        """
        key = None if self.key_file is None else read_key_file(self.key_file)
        config = policy.model.config.get_text_config()
        student = Student(
            vocab_size=policy.vocab_size,
            num_rows=config.vocab_size,
            end_ids=frozenset(policy.end_ids),
            is_tied=bool(config.tie_word_embeddings),
            probe_ids=tuple(policy.response_ids(PROBE)[:-1]),
        )
        return ServerSampler(self, key, student)


class ServerSampler:
    """Draws responses from a server; see `Sampler`."""

    def __init__(
        self,
        server: SampledByServer,
        key: str | None,
        student: Student,
        transport: Transport | None = None,
    ) -> None:
        self._server = server
        self._transport = transport
        self._key = key
        self._student = student
        self._dialect = _dialect_of(server, student)
        self._is_started = False
        self._takes_adapters = False
        self._version: str | None = None

    @property
    def version(self) -> str:
        """The loaded version."""
        assert self._version is not None, "no version was loaded"
        return self._version

    @property
    def sleeps(self) -> bool:
        """Whether the server leaves its memory to the update."""
        return self._server.sleeps

    async def sleep(self) -> None:
        """Puts the server to sleep.

        Raises:
            PreceptorError: it does not sleep, or is not there.
        """
        async with self._calls() as calls:
            await self._dialect.sleep(calls)

    async def wake(self) -> None:
        """Wakes the server.

        Raises:
            PreceptorError: it does not wake, or is not there.
        """
        async with self._calls() as calls:
            await self._dialect.wake(calls)

    async def takes_adapters(self) -> bool:
        """Whether the server does; only a run that trains an adapter asks.

        Raises:
            PreceptorError: the server is not there, or cannot be the run's sampler.
        """
        async with self._calls() as calls:
            await self._start(calls)
            self._takes_adapters = await self._dialect.takes_adapters(calls)
        return self._takes_adapters

    async def load(self, published: Published) -> None:
        """Has the server read a version's files, or fetch it.

        Raises:
            ValueError: the version was not published as files, and the server reads them.
            PreceptorError: the server could not load it, is not there, or cannot be the run's
                sampler.
        """
        manifest = published.manifest
        # A line of adapters begins with the model that the server was started with.
        own = self._takes_adapters and manifest is not None and manifest.parent is None
        if self._server.shared and manifest_of(published).base is None and not own:
            raise UnfitServer(
                f"rollout.sampler.shared: {published.version} is a whole version, which would take "
                "the place of what other runs draw from; give the run a server of its own"
            )
        async with self._calls() as calls:
            await self._start(calls)
            await self._dialect.load(calls, published, own=own)
        self._version = published.version

    async def sample(self, request: SampleRequest) -> list[list[Generation]]:
        """Like `Sampler.sample`.

        Log-probs of forced tokens are NaN: the server does not score what it is given.

        Raises:
            PreceptorError: the server failed, gives no log-probs of what is to be drawn, or its
                responses are not of the wanted policy.
        """
        seeds = seeds_of(request)
        forced = request.forced_prefixes or [()] * len(request.prompts)

        async with self._calls() as calls:
            await self._dialect.check(calls, request.params, self.version)

            async def one(prompt: int) -> list[Generation]:
                prefix = forced[prompt]
                draw = Draw(
                    ids=[*request.prompts[prompt], *prefix],
                    count=request.num_samples,
                    params=request.params,
                    seed=seeds[prompt],
                    version=self.version,
                )
                drawn = await self._dialect.draw(calls, draw)
                self._check(drawn, draw)
                responses = [as_generation(each, prefix) for each in drawn]
                if request.on_finished is not None:
                    for number, response in enumerate(responses):
                        request.on_finished(prompt, number, response)
                return responses

            return await asyncio.gather(*map(one, range(len(request.prompts))))

    def _calls(self) -> Calls:
        return Calls(self._server.url, self._key, self._server.timeout_s, self._transport)

    async def _start(self, calls: Calls) -> None:
        if not self._is_started:
            if self._server.sleeps:  # an earlier run may have left it asleep, where nothing answers
                await self._dialect.wake(calls)
            await self._dialect.start(calls)
            if self._server.sleeps:  # tried, so that what cannot sleep is refused now
                await self._dialect.sleep(calls)
                await self._dialect.wake(calls)
            self._is_started = True

    def _check(self, drawn: Sequence[Generated], draw: Draw) -> None:
        if len(drawn) != draw.count:
            raise AnswerRefused("responses", f"has {len(drawn)} for {draw.count} wanted")
        longest = draw.params.max_new_tokens
        for number, one in enumerate(drawn):
            field = f"responses[{number}]"
            check_drawn(
                field,
                one,
                longest=longest,
                vocab_size=self._student.vocab_size,
                end_ids=self._student.end_ids,
            )
            if one.finish_reason == "length" and len(one.response_ids) < longest:
                raise AnswerRefused(
                    f"{field}.finish_reason",
                    f"is 'length' after {len(one.response_ids)} of {longest} tokens: the server's "
                    f"context has no room for a prompt of {len(draw.ids)} tokens and its response",
                )


def _dialect_of(server: SampledByServer, student: Student) -> Dialect:
    if server.kind == "vllm":
        return VLLMServer(student, shared=server.shared, path=server.weights)
    # It lists no adapters, and unloads none but this run's in any case.
    return SGLangServer(student)
