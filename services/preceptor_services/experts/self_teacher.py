"""The self-teacher: the student's own policy, with feedback that the student did not have.

    q(. | prompt, feedback, response before t)  under  EMA(policy weights)

The context is one user turn (`templates.py`) without the failed attempt; the response is scored as
the assistant's answer by one prefill: no sampling, no gradient. Source: DistIL (arXiv 2606.05152),
with the teacher context of SDPO (arXiv 2601.20802, section 2).

The options choose the teacher: a moving average (`ema_rate` between 0 and 1), frozen at the initial
weights (0), the live policy (1), or a trust region (`trust_region`, `trust_region.py`).

    preceptor serve preceptor_services.experts.self_teacher:SelfTeacher \\
        --option model=FOLDER --option 'weights_roots=["/runs/NAME/weights"]'
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from preceptor_clients.contract.errors import ServiceFailed, WeightsNotHere
from preceptor_clients.contract.schemas import (
    Capabilities,
    PrefixQuery,
    ServiceLimits,
    WeightsOffer,
)
from preceptor_clients.sdk.context import Context
from preceptor_services.experts.ema import AverageWeights, WeightCatalogue
from preceptor_services.experts.engine.models import Scorer, scorer_of
from preceptor_services.experts.model import Precision
from preceptor_services.experts.torch_expert import TorchExpert, TorchExpertConfig
from preceptor_services.experts.trust_region import GeometricMixture

CODE_VERSION: Final = "5"
"""Increased whenever the answer to the same model, settings and query may change."""


@dataclass(frozen=True, kw_only=True)
class SelfTeacherConfig(TorchExpertConfig):
    """Options of a self-teacher; the weights of `model` are the initial ones."""

    name: str = "self-teacher"
    """The expert's name in its answers."""
    ema_rate: float = 0.05
    """Share of the newest weights in the average: 1 is the live policy, 0 the initial model."""
    trust_region: float | None = None
    """Share of the averaged policy in a geometric mixture with the initial model, where given.
    With `ema_rate` 1 this is the trust-region teacher of SDPO."""
    needs_feedback: bool = True
    """Whether a query without feedback gets no opinion; else the plain prompt is scored."""
    weights_roots: tuple[str, ...] = ()
    """Folders under which versions of weights may lie."""
    versions_kept: int = 4
    """Averages held in memory."""
    dtype: Precision = "float32"
    """Data type of weights and activations; log-probs are always float32."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0.0 <= self.ema_rate <= 1.0:
            raise ValueError(f"ema_rate: {self.ema_rate} is outside 0..1")
        if self.trust_region is not None and not 0.0 < self.trust_region < 1.0:
            raise ValueError(f"trust_region: {self.trust_region} is not between 0 and 1")
        if self.trust_region is not None and self.ema_rate == 0.0:
            raise ValueError(
                "trust_region: cannot be used with ema_rate 0, which is the reference itself"
            )
        if isinstance(self.weights_roots, str):
            raise ValueError("weights_roots: is a single text, expected a list of folders")
        if self.versions_kept < 1:
            raise ValueError(f"versions_kept: {self.versions_kept} is below 1")


class SelfTeacher(TorchExpert):
    """An expert of the SDK; every option is a field of `SelfTeacherConfig`."""

    def __init__(self, **options: Any) -> None:
        self._config = SelfTeacherConfig(**options)
        super().__init__(self._config, CODE_VERSION, reads_feedback=True, keep_initial=True)
        self._catalogue = WeightCatalogue(
            [Path(root) for root in self._config.weights_roots],
            self._model.vocab_fingerprint,
            self._model.initial,
        )
        self._averages = AverageWeights(
            self._catalogue,
            rate=self._config.ema_rate,
            versions_kept=self._config.versions_kept,
            device=self._device,
        )

    async def offer_weights(self, offer: WeightsOffer) -> None:
        """Registers versions, and prepares the newest for coming queries.

        Raises:
            Invalid: The address is not allowed, or the vocabulary is another.
            Conflict: A version is already known with other bytes.
            ServiceFailed: The newest version's bytes differ from its manifest.
        """
        self._catalogue.offer(offer.manifests)
        await self._in_torch(lambda: self._prepare(offer))

    def _make_scorer(self) -> Scorer:
        vocab_size = self._model.vocab_size
        if self._config.trust_region is None:
            return scorer_of(self._model.module, vocab_size)
        # Copied before any version is loaded, so that the reference keeps the initial weights.
        reference = scorer_of(copy.deepcopy(self._model.module), vocab_size)
        student = scorer_of(self._model.module, vocab_size)
        return GeometricMixture(reference, student, share=self._config.trust_region)

    def _version_of(self, query: PrefixQuery) -> str | None:
        return None if query.weights is None else self._catalogue.resolve(query.weights)

    def _prepare(self, offer: WeightsOffer) -> None:
        for manifest in offer.manifests:
            self._averages.store_checkpoint(manifest.version)
        if not offer.manifests or self._config.ema_rate == 0.0:
            return
        try:
            self._averages.state(offer.manifests[-1].version)
        except WeightsNotHere:
            return  # an ancestor is not offered yet; a query before that raises the error

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

    def _capabilities(self) -> Capabilities:
        own = {
            "weights": True,
            "adapters": True,
            "needs_feedback": self._config.needs_feedback,
        }
        return super()._capabilities().model_copy(update=own)

    def _limits(self) -> ServiceLimits:
        return ServiceLimits(
            max_batch=self._config.max_batch,
            max_batch_tokens=self._config.max_batch * self._max_context,
            max_concurrency=1,
        )

    def _decides(self) -> dict[str, Any]:
        return {
            "ema_rate": self._config.ema_rate,
            "trust_region": self._config.trust_region,
            "needs_feedback": self._config.needs_feedback,
            **super()._decides(),
        }
