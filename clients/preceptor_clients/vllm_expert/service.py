"""A model in vLLM as an expert and a sampler, with arrays instead of JSON.

vLLM's own server renders every log-prob as a JSON object, which costs more time than the model.
Here the engine runs behind the SDK: flat log-probs become arrays once and are sent as a frame. The
same service draws responses (`POST /v1/generate`) and accepts new weights (`PUT /v1/weights`). The
engine has no HTTP control routes of its own.

    preceptor serve preceptor_clients.vllm_expert.service:VLLMExpert --option model=FOLDER

The engine has one version of the weights at a time. A query for another version waits until the
queries before it are answered; then the engine reloads. Bytes are hashed as they are read and given
to vLLM as a private copy, so that the hashed bytes are the loaded ones.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Final, TypeVar

import numpy as np

from preceptor_clients.contract.errors import (
    ContextTooLong,
    PreceptorError,
    ServiceFailed,
    ServiceUnavailable,
)
from preceptor_clients.contract.fingerprint import (
    folder_fingerprint,
    ids_hash,
    settings_version,
    tokenizer_fingerprint,
)
from preceptor_clients.contract.generation import GenerateAnswer, GenerateQuery, SleepCall
from preceptor_clients.contract.schemas import (
    Capabilities,
    PrefixAnswer,
    PrefixQuery,
    ServiceInfo,
    ServiceLimits,
    WantedWeights,
    WeightsOffer,
)
from preceptor_clients.sdk.admission import Admission
from preceptor_clients.sdk.answers import build_answer
from preceptor_clients.sdk.chat_encoding import ChatEncoder
from preceptor_clients.sdk.context import Context, build_context, find_template
from preceptor_clients.sdk.offered_weights import OfferedWeights
from preceptor_clients.vllm_expert.config import VLLMExpertConfig
from preceptor_clients.vllm_expert.engine import Engine, vllm_version
from preceptor_clients.vllm_expert.flat import candidates_of, distributions_of, spread_candidates
from preceptor_clients.vllm_expert.version_gate import Version, VersionGate
from preceptor_clients.vllm_expert.weight_files import write_weights

CODE_VERSION: Final = "3"
"""Raised whenever the same model, settings and query may give another answer."""

Q = TypeVar("Q", PrefixQuery, GenerateQuery)
A = TypeVar("A", PrefixAnswer, GenerateAnswer)


class VLLMExpert:
    """An expert of the SDK; every option is a field of `VLLMExpertConfig`."""

    def __init__(self, **options: Any) -> None:
        self._config = VLLMExpertConfig(**options)
        self._template = find_template(self._config.template)
        self._vllm_version = vllm_version()
        self._gate = VersionGate(self._load)
        self._engine: Engine
        self._started = False
        self._is_asleep = False

    async def start(self) -> None:
        """Starts the engine, which may take minutes."""
        self._engine = Engine(self._config)
        self._room = Admission(self._engine.cache_tokens)
        self._vocab = tokenizer_fingerprint(self._engine.tokenizer)
        self._chats = ChatEncoder(self._engine.tokenizer, self._config.chat_template_kwargs)
        vocabulary: dict[str, int] = self._engine.tokenizer.get_vocab()
        self._vocab_size = 1 + max(vocabulary.values())
        self._offered = OfferedWeights(
            [Path(root) for root in self._config.weights_roots], self._vocab, adapters=True
        )
        self._info = self._describe()
        self._started = True

    async def stop(self) -> None:
        """Ends the engine's processes."""
        if self._started:
            self._engine.close()

    def ready(self) -> bool:
        """Whether the engine is running."""
        return self._started and self._engine.alive

    def info(self) -> ServiceInfo:
        """The capabilities of this expert."""
        return self._info

    # ------------------------------------------------------------ scoring

    async def logprobs(
        self, queries: Sequence[PrefixQuery], answer_keys: Sequence[str]
    ) -> Sequence[PrefixAnswer | PreceptorError]:
        """One answer per query; sequences of all calls share vLLM's batches.

        Raises:
            WeightsNotHere: A wanted version is not known; the whole call is sent to another
                replica.
        """
        return await self._by_version(queries, self._answer)

    async def _answer(self, query: PrefixQuery, version: Version) -> PrefixAnswer:
        context = self._context(query)
        ids = [*context.ids.tolist(), *query.response_ids.tolist()]
        async with self._room.room(len(ids) + 1):
            scores = await self._engine.score(ids, query.top_k, spread_candidates(query))
        distributions = replace(
            distributions_of(
                scores.flat, query, num_context=len(context.ids), vocab_size=self._vocab_size
            ),
            candidate_logprobs_PC=candidates_of(scores.candidates_TC, query),
        )
        return build_answer(
            query,
            distributions,
            expert=self._config.name,
            expert_version=self._info.version,
            exact=True,  # the service rounds later, where the reply is to be rounded
            weights_before=version,
            weights_after=version,
            template_version=self._template.version if self._config.reads_feedback else None,
            context_hash=ids_hash(context.ids),
            used_feedback=context.used_feedback,
            truncated=context.truncated,
        )

    def _context(self, query: PrefixQuery) -> Context:
        return build_context(
            query,
            template=self._template,
            encode=self._encode,
            max_context=self._max_context(),
            reads_feedback=self._config.reads_feedback,
        )

    def _encode(self, messages: list[dict[str, str]]) -> list[int]:
        return self._chats.chat_ids(messages)

    def _max_context(self) -> int:
        return min(self._engine.max_context, self._engine.cache_tokens - 1)

    # ------------------------------------------------------------ sampling

    async def generate(
        self, queries: Sequence[GenerateQuery]
    ) -> Sequence[GenerateAnswer | PreceptorError]:
        """Responses drawn from the policy, a list per query.

        Raises:
            WeightsNotHere: A wanted version is not known.
        """
        return await self._by_version(queries, self._draw)

    async def _draw(self, query: GenerateQuery, version: Version) -> GenerateAnswer:
        ids = query.prompt.ids
        if ids is None:
            chat = self._encode([message.model_dump() for message in query.prompt.messages])
            ids = np.array(chat, np.int32)
        longest = len(ids) + query.sampling.max_new_tokens
        if longest > self._max_context():
            raise ContextTooLong(
                f"prompt and response may have {longest} tokens, limit {self._max_context()}",
                field="sampling.max_new_tokens",
            )
        # A whole group together, so that it shares the prompt's cache. vLLM queues what exceeds it.
        async with self._room.room(min(longest * query.count, self._room.capacity)):
            responses = await self._engine.sample(ids.tolist(), query.sampling, query.count)
        return GenerateAnswer(
            responses=tuple(responses),
            vocab_fingerprint=self._vocab,
            sampler=self._config.name,
            sampler_version=self._info.version,
            weights_before=version,
            weights_after=version,
        )

    async def sleep(self, call: SleepCall) -> None:
        """Puts the engine to sleep when the queries before are answered, or wakes it.

        Raises:
            Invalid: It was not started for it.
            ServiceFailed: It does not wake.
        """
        async with self._gate.alone():
            if call.asleep:
                await self._engine.sleep()
            else:
                await self._engine.wake()
            self._is_asleep = call.asleep

    # ------------------------------------------------------------ weights

    async def offer_weights(self, offer: WeightsOffer) -> None:
        """Registers versions; a version is loaded when a query first wants it.

        Raises:
            Invalid: The address is not allowed, or the vocabulary is another.
            Conflict: The version is already known with other bytes.
        """
        self._offered.offer(offer.manifests)

    async def _by_version(
        self, queries: Sequence[Q], work: Callable[[Q, Version], Awaitable[A]]
    ) -> list[A | PreceptorError]:
        """Runs `work` on each query with its wanted weights; an error affects only its own
        query."""
        versions = [self._version(query.weights) for query in queries]
        replies: dict[int, A | PreceptorError] = {}

        async def one(index: int) -> None:
            try:
                replies[index] = await work(queries[index], versions[index])
            except PreceptorError as error:
                replies[index] = error

        for version in dict.fromkeys(versions):
            async with self._gate.holding(version):
                self._check_awake()
                await self._check_version(version)
                async with asyncio.TaskGroup() as tasks:
                    for index, wanted in enumerate(versions):
                        if wanted == version:
                            tasks.create_task(one(index))
                await self._check_version(version)
        return [replies[i] for i in range(len(queries))]

    def _check_awake(self) -> None:
        if self._is_asleep:
            raise ServiceUnavailable("the engine sleeps until a run wakes it", retry_after_s=1)

    def _version(self, wanted: WantedWeights | None) -> Version:
        if wanted is None or not self._config.weights_roots:
            return None
        return self._offered.resolve(wanted)

    async def _load(self, version: Version) -> None:
        self._check_awake()
        if version is None:
            await self._engine.load(Path(self._config.model), None)
            return
        manifest = self._offered.get(version)
        assert manifest is not None
        with tempfile.TemporaryDirectory(prefix="preceptor-weights-") as folder:
            await asyncio.to_thread(
                write_weights,
                self._offered,
                manifest,
                Path(folder),
                stochastic=self._config.rounding == "stochastic",
            )
            await self._engine.load(Path(folder), version)

    async def _check_version(self, version: Version) -> None:
        found = await self._engine.version()
        if found != version:
            raise ServiceFailed(f"the engine holds weights {found}, not {version}", field="weights")

    # ------------------------------------------------------------ said of itself

    def _describe(self) -> ServiceInfo:
        return ServiceInfo(
            name=self._config.name,
            role="expert",
            version=self._version_text(),
            capabilities=Capabilities(
                kinds=("topk",),
                max_top_k=min(self._config.max_top_k, self._vocab_size),
                candidates=self._engine.scores_candidates,
                weights=bool(self._config.weights_roots),
                adapters=bool(self._config.weights_roots),
                vocab_fingerprint=self._vocab,
                vocab_size=self._vocab_size,
                head_size=max(self._engine.head_size, self._vocab_size),
                max_context=self._max_context(),
            ),
            limits=ServiceLimits(
                max_batch=self._config.max_batch,
                max_batch_tokens=self._engine.cache_tokens,
                max_concurrency=self._config.max_concurrency,
            ),
        )

    def _version_text(self) -> str:
        settings = asdict(self._config)
        decides = {
            name: settings[name]
            for name in ("reads_feedback", "dtype", "rounding", "engine", "chat_template_kwargs")
        } | {
            "code": CODE_VERSION,
            "template": self._template.version if self._config.reads_feedback else None,
            "model": folder_fingerprint(Path(self._config.model)),
            "max_context": self._max_context(),
            "vllm": self._vllm_version,
            "runner": 2 if self._engine.scores_candidates else 1,
        }
        return settings_version(CODE_VERSION, decides)
