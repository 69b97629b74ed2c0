"""The self-teacher: the student's own policy, with feedback in view that the student did not have.

    q(. | prompt, feedback, response before t)  under  EMA(policy weights)

The context is one user turn (`templates.py`) without the failed attempt; the response is scored as
the assistant's answer by one prefill: no sampling, no gradient. Source: DistIL (arXiv 2606.05152),
with the teacher context of SDPO (arXiv 2601.20802, section 2).

Which teacher it is, is its options: a moving average (`ema_rate` between 0 and 1), frozen at the
initial weights (0), the live policy (1), or a trust region (`trust_region`, `trust_region.py`).

    preceptor serve preceptor_services.experts.self_teacher:SelfTeacher \\
        --option model=FOLDER --option 'weights_roots=["/runs/NAME/weights"]'

Torch works in one thread of its own, one call at a time, so that weights never change during a
batch and the same batch in the same order gives the same bits.
"""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

import numpy as np
import torch

from preceptor_clients.contract.errors import (
    PreceptorError,
    ServiceFailed,
    TooLarge,
    WeightsNotHere,
)
from preceptor_clients.contract.fingerprint import folder_fingerprint, ids_hash, settings_version
from preceptor_clients.contract.schemas import (
    Capabilities,
    PrefixAnswer,
    PrefixQuery,
    ServiceInfo,
    ServiceLimits,
    WeightsOffer,
)
from preceptor_clients.contract.tokenization import TokenIds, TokenizeCall
from preceptor_clients.sdk.admission import Admission
from preceptor_clients.sdk.answers import build_answer
from preceptor_clients.sdk.context import Context, build_context, find_template
from preceptor_services.experts.ema import AverageWeights
from preceptor_services.experts.engine.budget import budget_of
from preceptor_services.experts.engine.models import Scorer, scorer_of
from preceptor_services.experts.engine.prefill import num_entries, prefill_of
from preceptor_services.experts.engine.score import score
from preceptor_services.experts.model import DTYPES, Precision, ScoringModel
from preceptor_services.experts.trust_region import GeometricMixture
from preceptor_services.experts.weights import WeightCatalogue

CODE_VERSION: Final = "4"
"""Raised whenever the same model, settings and query may give another answer."""
R = TypeVar("R")


@dataclass(frozen=True, kw_only=True)
class SelfTeacherConfig:
    """Options of a self-teacher."""

    model: str
    """Hugging Face folder with architecture, tokenizer and initial weights."""
    name: str = "self-teacher"
    """The expert's name in its answers."""
    template: str = "compact"
    """`compact`, `papers`, or the path of a Jinja file."""
    ema_rate: float = 0.05
    """Share of the newest weights in the average: 1 is the live policy, 0 the initial model."""
    trust_region: float | None = None
    """Share of the averaged policy in a geometric mixture with the initial model, where given.
    With `ema_rate` 1 this is the trust-region teacher of SDPO."""
    needs_feedback: bool = True
    """No opinion where no feedback is in view; false scores the plain prompt then."""
    weights_roots: tuple[str, ...] = ()
    """Folders under which versions of weights may lie."""
    versions_kept: int = 4
    """Averages held in memory."""
    device: str = "cpu"
    """Where torch computes."""
    dtype: Precision = "float32"
    """Of weights and activations; log-probs are float32 always."""
    threads: int = 2
    """Threads of torch; part of the version, because sums depend on it in their last bits."""
    max_context: int | None = None
    """Tokens of context and response together; the model's own limit where absent."""
    max_top_k: int = 1024
    """Most entries per position."""
    max_batch: int = 64
    """Queries in one call."""
    memory_mb: int = 1024
    """MiB that scoring may take beside the weights; more work than fits waits its turn."""

    def __post_init__(self) -> None:
        if not Path(self.model, "config.json").is_file():
            raise ValueError(f"model: {self.model!r} is no folder with a config.json")
        if not 0.0 <= self.ema_rate <= 1.0:
            raise ValueError(f"ema_rate: {self.ema_rate} is outside 0..1")
        if self.trust_region is not None and not 0.0 < self.trust_region < 1.0:
            raise ValueError(f"trust_region: {self.trust_region} is not between 0 and 1")
        if self.trust_region is not None and self.ema_rate == 0.0:
            raise ValueError("trust_region: with ema_rate 0 there is nothing to mix in")
        if self.dtype not in DTYPES:
            raise ValueError(f"dtype: {self.dtype!r} is none of {sorted(DTYPES)}")
        if isinstance(self.weights_roots, str):
            raise ValueError("weights_roots: is one text, wants a list of folders")
        for field in ("versions_kept", "threads", "max_top_k", "max_batch", "memory_mb"):
            if getattr(self, field) < 1:
                raise ValueError(f"{field}: {getattr(self, field)} is below 1")
        if self.max_context is not None and self.max_context < 2:
            raise ValueError(f"max_context: {self.max_context} is below 2")


class SelfTeacher:
    """An expert of the SDK; every option is a field of `SelfTeacherConfig`."""

    def __init__(self, **options: Any) -> None:
        self._config = SelfTeacherConfig(**options)
        self._template = find_template(self._config.template)
        self._torch = ThreadPoolExecutor(
            1,
            thread_name_prefix="self-teacher",
            # In the thread itself: the count of OpenMP threads belongs to the thread that sets it.
            initializer=lambda: torch.set_num_threads(self._config.threads),
        )
        self._model = self._torch.submit(self._load_model).result()
        self._scorer = self._torch.submit(self._make_scorer).result()
        self._catalogue = WeightCatalogue(
            [Path(root) for root in self._config.weights_roots], self._model.vocab_fingerprint
        )
        self._averages = AverageWeights(
            self._catalogue,
            rate=self._config.ema_rate,
            versions_kept=self._config.versions_kept,
        )
        self._loaded: str | None = None
        """The version in the model; None for the initial weights."""
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
        """One answer per query; queries of one version of the weights are one batch.

        Raises:
            WeightsNotHere: A wanted version is not known; the whole call goes elsewhere.
            TooLarge: The answers would not fit into the budget.
        """
        size = sum(num_entries(query) for query in queries)
        if size > self._admission.capacity:
            raise TooLarge(
                f"{size} entries are asked for, {self._admission.capacity} fit", field="queries"
            )
        async with self._admission.room(size):
            return await self._answers(queries)

    async def _answers(
        self, queries: Sequence[PrefixQuery]
    ) -> Sequence[PrefixAnswer | PreceptorError]:
        versions = [self._version(query) for query in queries]
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

    async def offer_weights(self, offer: WeightsOffer) -> None:
        """Takes note of versions, and makes the newest ready for the queries that will want it.

        Raises:
            Invalid: An address that is not allowed, or another vocabulary.
            Conflict: A version is known with other bytes.
            ServiceFailed: The newest version's bytes are not the ones offered.
        """
        self._catalogue.offer(offer.manifests)
        await self._in_torch(lambda: self._prepare(offer))

    async def tokenize(self, call: TokenizeCall) -> TokenIds:
        """Ids of a text or a chat, by the model's tokenizer."""
        return await self._model.tokenize(call)

    async def stop(self) -> None:
        """Ends the thread of torch once its call is done."""
        self._torch.shutdown(wait=True)

    def _load_model(self) -> ScoringModel:
        return ScoringModel(
            Path(self._config.model), device=self._config.device, dtype=self._config.dtype
        )

    def _make_scorer(self) -> Scorer:
        vocab_size = self._model.vocab_size
        if self._config.trust_region is None:
            return scorer_of(self._model.module, vocab_size)
        # A copy before any version is loaded: the reference keeps the initial weights.
        reference = scorer_of(copy.deepcopy(self._model.module), vocab_size)
        student = scorer_of(self._model.module, vocab_size)
        return GeometricMixture(reference, student, share=self._config.trust_region)

    async def _in_torch(self, work: Callable[[], R]) -> R:
        return await asyncio.get_running_loop().run_in_executor(self._torch, work)

    def _version(self, query: PrefixQuery) -> str | None:
        return None if query.weights is None else self._catalogue.resolve(query.weights)

    def _context(self, query: PrefixQuery) -> Context | PreceptorError:
        try:
            return build_context(
                query,
                template=self._template,
                encode=self._model.encode,
                max_context=self._max_context,
            )
        except PreceptorError as error:
            return error

    def _prepare(self, offer: WeightsOffer) -> None:
        for manifest in offer.manifests:
            self._averages.store_checkpoint(manifest.version)
        if not offer.manifests or self._config.ema_rate == 0.0:
            return
        try:
            self._averages.state(offer.manifests[-1].version)
        except WeightsNotHere:
            return  # an ancestor is still to come; a query that cannot wait says so

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
                expert=self._config.name,
                expert_version=self._info.version,
                mask_P=self._mask(query, context),
                exact=True,  # the service rounds what is to travel rounded
                weights_before=before,
                weights_after=self._loaded,
                template_version=self._template.version,
                context_hash=ids_hash(context.ids),
                used_feedback=context.used_feedback,
                truncated=context.truncated,
            )
            for (_, query, context), distributions in zip(batch, found, strict=True)
        ]

    def _load(self, version: str | None) -> None:
        if version == self._loaded:
            return
        if version is None or self._config.ema_rate == 0.0:
            self._model.load(self._model.initial)
        else:
            try:
                self._model.load(self._averages.state(version))
            except ValueError as error:
                raise ServiceFailed(f"{version}: {error}", field="weights") from error
        self._loaded = version

    def _mask(self, query: PrefixQuery, context: Context) -> np.ndarray:
        has_opinion = bool(context.used_feedback) or not self._config.needs_feedback
        return np.full(query.num_positions, has_opinion, np.bool_)

    def _describe(self) -> ServiceInfo:
        return ServiceInfo(
            name=self._config.name,
            role="expert",
            version=self._expert_version(),
            capabilities=Capabilities(
                kinds=("topk",),
                max_top_k=min(self._config.max_top_k, self._model.vocab_size),
                candidates=True,
                weights=True,
                needs_feedback=self._config.needs_feedback,
                vocab_fingerprint=self._model.vocab_fingerprint,
                vocab_size=self._model.vocab_size,
                max_context=self._max_context,
            ),
            limits=ServiceLimits(
                max_batch=self._config.max_batch,
                max_batch_tokens=self._config.max_batch * self._max_context,
                max_concurrency=1,
            ),
        )

    def _expert_version(self) -> str:
        settings = asdict(self._config)
        decides = {
            field: settings[field]
            for field in (
                "ema_rate",
                "trust_region",
                "needs_feedback",
                "device",
                "dtype",
                "threads",
            )
        } | {
            "code": CODE_VERSION,
            "template": self._template.version,
            "model": folder_fingerprint(Path(self._config.model)),
            "max_context": self._max_context,
            "torch": torch.__version__,
        }
        return settings_version(CODE_VERSION, decides)
