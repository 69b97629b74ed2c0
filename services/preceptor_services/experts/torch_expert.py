"""The common part of experts with a torch model of their own: self-teacher and larger model.

The context is built on the event loop. Everything else runs in one torch thread, one batch at a
time, so that weights never change during a batch and equal batches in the same order give the same
bits.
"""

from __future__ import annotations

import asyncio
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar

import numpy as np
import torch

from preceptor_clients.contract.errors import PreceptorError, TooLarge
from preceptor_clients.contract.fingerprint import folder_fingerprint, ids_hash, settings_version
from preceptor_clients.contract.schemas import (
    Capabilities,
    PrefixAnswer,
    PrefixQuery,
    ServiceInfo,
    ServiceLimits,
)
from preceptor_clients.contract.tokenization import TokenIds, TokenizeCall
from preceptor_clients.sdk.admission import Admission
from preceptor_clients.sdk.answers import build_answer
from preceptor_clients.sdk.context import Context, build_context, find_template
from preceptor_services.experts.engine.budget import Memory, budget_of, context_of
from preceptor_services.experts.engine.machine import memory_mb
from preceptor_services.experts.engine.models import Scorer, scorer_of
from preceptor_services.experts.engine.prefill import num_entries, prefill_of
from preceptor_services.experts.engine.score import score
from preceptor_services.experts.model import DTYPES, Precision, ScoringModel, device_of
from preceptor_services.experts.temperature import at_temperature

R = TypeVar("R")
USUAL_MB: Final = 1024
"""MiB for scoring where `memory_mb` is not set."""


@dataclass(frozen=True, kw_only=True)
class TorchExpertConfig:
    """Options of every expert of torch."""

    model: str
    """Hugging Face folder with architecture, tokenizer and weights."""
    name: str
    """The expert's name in its answers."""
    template: str = "compact"
    """`compact`, `papers`, `sdpo`, or the path of a Jinja file."""
    device: str = "auto"
    """Torch device of the computation; `auto` is the GPU where torch sees one, else the CPU."""
    dtype: Precision
    """Data type of weights and activations; log-probs are always float32."""
    threads: int = 2
    """Threads of torch; part of the version, because it affects the last bits of sums."""
    max_context: int | None = None
    """Tokens of context and response together; where absent, the model's own limit, or as many as
    fit into half of the machine's memory."""
    max_top_k: int = 1024
    """Most entries per position."""
    max_batch: int = 64
    """Queries in one call."""
    memory_mb: int | None = None
    """MiB for scoring beside the weights; further work waits until memory is free. Where absent,
    1024 (a larger model 2048), and more for a single longer sequence."""
    temperature: float = 1.0
    """Divides the logits: below 1 the expert prefers the model's best tokens; part of its
    version."""
    chat_template_kwargs: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Further variables of the chat template, such as `{"enable_thinking": false}`; as for the
    student."""

    def __post_init__(self) -> None:
        if not Path(self.model, "config.json").is_file():
            raise ValueError(f"model: {self.model!r} is not a folder with a config.json")
        if self.dtype not in DTYPES:
            raise ValueError(f"dtype: {self.dtype!r} is not one of {sorted(DTYPES)}")
        for name in ("threads", "max_top_k", "max_batch", "memory_mb"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name}: {value} is below 1")
        if not (self.temperature > 0 and math.isfinite(self.temperature)):
            raise ValueError(f"temperature: {self.temperature} is not above 0")
        device_of(self.device)
        if self.max_context is not None and self.max_context < 2:
            raise ValueError(f"max_context: {self.max_context} is below 2")


class TorchExpert(ABC):
    """An expert of the SDK whose weights never change; a subclass may change them by version."""

    def __init__(
        self,
        config: TorchExpertConfig,
        code_version: str,
        *,
        reads_feedback: bool,
        keep_initial: bool,
        usual_mb: int = USUAL_MB,
    ) -> None:
        """Loads the model.

        Args:
            config: The common options.
            code_version: Increased whenever the answer to the same model, settings and query may
                change.
            reads_feedback: Whether the feedback of a query is put into its context.
            keep_initial: Whether a copy of the folder's weights is kept, to restore them.
            usual_mb: Memory for scoring where `memory_mb` is not set.
        """
        self._shared = config
        self._code_version = code_version
        self._reads_feedback = reads_feedback
        self._template = find_template(config.template)
        self._device = device_of(config.device)
        self._torch = ThreadPoolExecutor(
            1,
            thread_name_prefix=config.name,
            # Set in the torch thread: the number of OpenMP threads is a setting of each thread.
            initializer=lambda: torch.set_num_threads(config.threads),
        )
        self._model = self._torch.submit(self._load_model, keep_initial).result()
        scorer = self._torch.submit(self._make_scorer).result()
        self._scorer = at_temperature(scorer, config.temperature)
        decoder, element_bytes = self._model.decoder_config, DTYPES[config.dtype].itemsize
        self._max_context = context_of(
            Memory(declared=config.memory_mb, most=memory_mb(self._device) // 2),
            decoder,
            element_bytes=element_bytes,
            max_context=config.max_context,
        )
        self._budget = budget_of(config.memory_mb or usual_mb, decoder, element_bytes=element_bytes)
        self._admission = Admission(self._budget.max_entries)
        self._loaded: str | None = None
        """The version in the model; None for the weights of the folder."""
        self._info = ServiceInfo(
            name=config.name,
            role="expert",
            version=settings_version(code_version, self._decides()),
            capabilities=self._capabilities(),
            limits=self._limits(),
        )

    def info(self) -> ServiceInfo:
        """Capabilities of this expert."""
        return self._info

    async def logprobs(
        self, queries: Sequence[PrefixQuery], answer_keys: Sequence[str]
    ) -> Sequence[PrefixAnswer | PreceptorError]:
        """One answer per query; queries of one version of the weights are one batch.

        Raises:
            WeightsNotHere: A wanted version is not known; the whole call is sent to another
                replica.
            TooLarge: The answers exceed the memory budget.
        """
        size = sum(num_entries(query) for query in queries)
        if size > self._admission.capacity:
            raise TooLarge(
                f"{size} entries are requested, at most {self._admission.capacity} fit; ask for "
                "fewer entries or positions at a time, or set a larger memory_mb",
                field="queries",
            )
        async with self._admission.room(size):
            return await self._answers(queries)

    async def tokenize(self, call: TokenizeCall) -> TokenIds:
        """Ids of a text or a chat, by the model's tokenizer."""
        return await self._model.tokenize(call)

    async def stop(self) -> None:
        """Stops the torch thread after its current call."""
        self._torch.shutdown(wait=True)

    # ------------------------------------------------------------ what a subclass may change

    def _make_scorer(self) -> Scorer:
        return scorer_of(self._model.module, self._model.vocab_size)

    def _version_of(self, query: PrefixQuery) -> str | None:
        return None

    def _load(self, version: str | None) -> None:
        """Loads a version's weights into the model; runs in the torch thread."""
        self._loaded = version

    def _mask(self, query: PrefixQuery, context: Context) -> np.ndarray | None:
        """`[P]` true where the expert has an opinion; None for all positions."""
        return None

    def _capabilities(self) -> Capabilities:
        return Capabilities(
            kinds=("topk",),
            max_top_k=min(self._shared.max_top_k, self._model.vocab_size),
            candidates=True,
            vocab_fingerprint=self._model.vocab_fingerprint,
            vocab_size=self._model.vocab_size,
            head_size=max(self._scorer.num_logits, self._model.vocab_size),
            max_context=self._max_context,
        )

    @abstractmethod
    def _limits(self) -> ServiceLimits:
        """Limits of one call."""

    def _decides(self) -> dict[str, Any]:
        """All settings on which answers depend, as JSON values."""
        return {
            "code": self._code_version,
            "device": str(self._device),
            "dtype": self._shared.dtype,
            "threads": self._shared.threads,
            "template": self._template_version(),
            "model": folder_fingerprint(Path(self._shared.model)),
            "max_context": self._max_context,
            "temperature": self._shared.temperature,
            "chat_template_kwargs": dict(self._shared.chat_template_kwargs),
            "torch": torch.__version__,
        }

    # ------------------------------------------------------------ scoring

    def _load_model(self, keep_initial: bool) -> ScoringModel:
        return ScoringModel(
            Path(self._shared.model),
            device=self._device,
            dtype=self._shared.dtype,
            keep_initial=keep_initial,
            chat_template_kwargs=self._shared.chat_template_kwargs,
        )

    def _template_version(self) -> str | None:
        return self._template.version if self._reads_feedback else None

    async def _in_torch(self, work: Callable[[], R]) -> R:
        return await asyncio.get_running_loop().run_in_executor(self._torch, work)

    async def _answers(
        self, queries: Sequence[PrefixQuery]
    ) -> Sequence[PrefixAnswer | PreceptorError]:
        versions = [self._version_of(query) for query in queries]
        contexts = [self._context(query) for query in queries]
        replies: list[PrefixAnswer | PreceptorError | None] = [
            context if isinstance(context, PreceptorError) else None for context in contexts
        ]
        for version in dict.fromkeys(versions):
            batch = [
                (index, queries[index], context)
                for index, context in enumerate(contexts)
                if versions[index] == version and not isinstance(context, PreceptorError)
            ]
            if batch:
                answers = await self._in_torch(lambda b=batch, v=version: self._answer(b, v))
                for (index, _, _), answer in zip(batch, answers, strict=True):
                    replies[index] = answer
        assert all(reply is not None for reply in replies)
        return [reply for reply in replies if reply is not None]

    def _context(self, query: PrefixQuery) -> Context | PreceptorError:
        try:
            return build_context(
                query,
                template=self._template,
                encode=self._model.encode,
                max_context=self._max_context,
                reads_feedback=self._reads_feedback,
            )
        except PreceptorError as error:
            return error

    def _answer(
        self, batch: Sequence[tuple[int, PrefixQuery, Context]], version: str | None
    ) -> list[PrefixAnswer]:
        self._load(version)
        before = self._loaded
        found = score(
            self._scorer,
            [prefill_of(query, context.ids) for _, query, context in batch],
            vocab_size=self._model.vocab_size,
            budget=self._budget,
        )
        return [
            build_answer(
                query,
                distributions,
                expert=self._shared.name,
                expert_version=self._info.version,
                mask_P=self._mask(query, context),
                exact=True,  # the service rounds later, where the reply is to be rounded
                weights_before=before,
                weights_after=self._loaded,
                template_version=self._template_version(),
                context_hash=ids_hash(context.ids),
                used_feedback=context.used_feedback,
                truncated=context.truncated,
            )
            for (_, query, context), distributions in zip(batch, found, strict=True)
        ]
