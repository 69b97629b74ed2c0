"""A larger model of the student's vocabulary, as an expert: fixed weights, scored by one prefill.

    preceptor serve preceptor_services.experts.larger_model:LargerModel --option model=FOLDER

It reads the plain prompt; with `reads_feedback` it reads what the self-teacher would read
(`context.py`). Whether its ids mean what the student's mean, the fingerprint of the vocabulary
decides. Weights are held once, in `dtype`; `memory_mb` bounds what scoring takes besides.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

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
from preceptor_services.experts.engine.budget import budget_of
from preceptor_services.experts.engine.models import scorer_of
from preceptor_services.experts.engine.prefill import num_entries, prefill_of
from preceptor_services.experts.engine.score import score
from preceptor_services.experts.model import DTYPES, Precision, ScoringModel

_ENOUGH_TOKENS: Final = 2048
"""Cores are busy with so many; answers travel while the next are computed."""
CODE_VERSION: Final = "3"
"""Raised whenever the same model, settings and query may give another answer."""


@dataclass(frozen=True, kw_only=True)
class LargerModelConfig:
    """Options of a larger model."""

    model: str
    """Hugging Face folder with architecture, tokenizer and weights."""
    name: str = "larger-model"
    """The expert's name in its answers."""
    reads_feedback: bool = False
    """Puts the feedback of a query into the prompt; else the feedback is left out."""
    template: str = "compact"
    """`compact`, `papers`, or the path of a Jinja file."""
    device: str = "cpu"
    """Where torch computes."""
    dtype: Precision = "bfloat16"
    """Of weights and activations; log-probs are float32 always."""
    threads: int = 2
    """Threads of torch; part of the version, because sums depend on it in their last bits."""
    max_context: int | None = None
    """Tokens of context and response together; the model's own limit where absent."""
    max_top_k: int = 1024
    """Most entries per position."""
    max_batch: int = 64
    """Queries in one call."""
    memory_mb: int = 2048
    """MiB that scoring may take beside the weights; more work than fits waits its turn."""

    def __post_init__(self) -> None:
        if not Path(self.model, "config.json").is_file():
            raise ValueError(f"model: {self.model!r} is no folder with a config.json")
        if self.dtype not in DTYPES:
            raise ValueError(f"dtype: {self.dtype!r} is none of {sorted(DTYPES)}")
        for field in ("threads", "max_top_k", "max_batch", "memory_mb"):
            if getattr(self, field) < 1:
                raise ValueError(f"{field}: {getattr(self, field)} is below 1")
        if self.max_context is not None and self.max_context < 2:
            raise ValueError(f"max_context: {self.max_context} is below 2")


class LargerModel:
    """An expert of the SDK; every option is a field of `LargerModelConfig`."""

    def __init__(self, **options: Any) -> None:
        self._config = LargerModelConfig(**options)
        self._template = find_template(self._config.template)
        self._torch = ThreadPoolExecutor(
            1,
            thread_name_prefix="larger-model",
            # In the thread itself: the count of OpenMP threads belongs to the thread that sets it.
            initializer=lambda: torch.set_num_threads(self._config.threads),
        )
        self._model = self._torch.submit(self._load_model).result()
        self._scorer = self._torch.submit(
            scorer_of, self._model.module, self._model.vocab_size
        ).result()
        own_limit: int = self._model.module.config.max_position_embeddings
        self._max_context = min(self._config.max_context or own_limit, own_limit)
        self._budget = budget_of(
            self._config.memory_mb,
            self._model.module.config,
            element_bytes=DTYPES[self._config.dtype].itemsize,
            max_context=self._max_context,
        )
        self._admission = Admission(self._budget.max_entries)
        self._info = self._describe()

    def info(self) -> ServiceInfo:
        """What this expert can do."""
        return self._info

    async def logprobs(
        self, queries: Sequence[PrefixQuery], answer_keys: Sequence[str]
    ) -> Sequence[PrefixAnswer | PreceptorError]:
        """One answer per query; the whole call is one batch.

        Raises:
            TooLarge: The answers would not fit into the budget.
        """
        size = sum(num_entries(query) for query in queries)
        if size > self._admission.capacity:
            raise TooLarge(
                f"{size} entries are asked for, {self._admission.capacity} fit", field="queries"
            )
        contexts = [self._context(query) for query in queries]
        readable = [
            (query, context)
            for query, context in zip(queries, contexts, strict=True)
            if isinstance(context, Context)
        ]
        async with self._admission.room(size):
            answers = iter(
                await asyncio.get_running_loop().run_in_executor(
                    self._torch, self._answer, readable
                )
            )
        return [next(answers) if isinstance(context, Context) else context for context in contexts]

    async def tokenize(self, call: TokenizeCall) -> TokenIds:
        """Ids of a text or a chat, by the model's tokenizer."""
        return await self._model.tokenize(call)

    async def stop(self) -> None:
        """Ends the thread of torch once its call is done."""
        self._torch.shutdown(wait=True)

    def _load_model(self) -> ScoringModel:
        return ScoringModel(
            Path(self._config.model),
            device=self._config.device,
            dtype=self._config.dtype,
            keep_initial=False,
        )

    def _context(self, query: PrefixQuery) -> Context | PreceptorError:
        try:
            return build_context(
                query,
                template=self._template,
                encode=self._model.encode,
                max_context=self._max_context,
                reads_feedback=self._config.reads_feedback,
            )
        except PreceptorError as error:
            return error

    def _answer(self, batch: Sequence[tuple[PrefixQuery, Context]]) -> list[PrefixAnswer]:
        found = score(
            self._scorer,
            [prefill_of(query, context.ids) for query, context in batch],
            vocab_size=self._model.vocab_size,
            budget=self._budget,
        )
        return [
            build_answer(
                query,
                distributions,
                expert=self._config.name,
                expert_version=self._info.version,
                exact=True,  # the service rounds what is to travel rounded
                template_version=self._template.version if self._config.reads_feedback else None,
                context_hash=ids_hash(context.ids),
                used_feedback=context.used_feedback,
                truncated=context.truncated,
            )
            for (query, context), distributions in zip(batch, found, strict=True)
        ]

    def _describe(self) -> ServiceInfo:
        return ServiceInfo(
            name=self._config.name,
            role="expert",
            version=self._version(),
            capabilities=Capabilities(
                kinds=("topk",),
                max_top_k=min(self._config.max_top_k, self._model.vocab_size),
                candidates=True,
                vocab_fingerprint=self._model.vocab_fingerprint,
                vocab_size=self._model.vocab_size,
                max_context=self._max_context,
            ),
            limits=ServiceLimits(
                max_batch=self._config.max_batch,
                max_batch_tokens=max(self._max_context, self._budget.max_tokens),
                enough_tokens=None if self._scorer.device.type == "cuda" else _ENOUGH_TOKENS,
                # One is computed while the next waits here, and not for a reply to travel.
                max_concurrency=2,
            ),
        )

    def _version(self) -> str:
        settings = asdict(self._config)
        decides = {field: settings[field] for field in ("reads_feedback", "device", "dtype")} | {
            "code": CODE_VERSION,
            "template": self._template.version if self._config.reads_feedback else None,
            "model": folder_fingerprint(Path(self._config.model)),
            "max_context": self._max_context,
            "threads": self._config.threads,
            "torch": torch.__version__,
        }
        return settings_version(CODE_VERSION, decides)
