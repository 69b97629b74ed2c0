"""A larger model with the student's vocabulary, as an expert: fixed weights, scored by one prefill.

    preceptor serve preceptor_services.experts.larger_model:LargerModel --option model=FOLDER

It reads the plain prompt; with `reads_feedback` it reads the same context as the self-teacher
(`context.py`). The fingerprint of the vocabulary decides whether its ids are the student's. Weights
are held once, in `dtype`; `memory_mb` bounds the memory of scoring beside them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from preceptor_clients.contract.schemas import ServiceLimits
from preceptor_services.experts.model import Precision
from preceptor_services.experts.torch_expert import TorchExpert, TorchExpertConfig

_ENOUGH_TOKENS: Final = 2048
"""Concurrent calls: enough to keep the cores busy while answers are sent."""
_USUAL_MB: Final = 2048
"""MiB for scoring where `memory_mb` is not set."""
CODE_VERSION: Final = "4"
"""Increased whenever the answer to the same model, settings and query may change."""


@dataclass(frozen=True, kw_only=True)
class LargerModelConfig(TorchExpertConfig):
    """Options of a larger model."""

    name: str = "larger-model"
    """The expert's name in its answers."""
    reads_feedback: bool = False
    """Whether the feedback of a query is put into the prompt; else it is left out."""
    dtype: Precision = "bfloat16"
    """Data type of weights and activations; log-probs are always float32."""


class LargerModel(TorchExpert):
    """An expert of the SDK; every option is a field of `LargerModelConfig`."""

    def __init__(self, **options: Any) -> None:
        self._config = LargerModelConfig(**options)
        super().__init__(
            self._config,
            CODE_VERSION,
            reads_feedback=self._config.reads_feedback,
            keep_initial=False,
            usual_mb=_USUAL_MB,
        )

    def _limits(self) -> ServiceLimits:
        return ServiceLimits(
            max_batch=self._config.max_batch,
            max_batch_tokens=max(self._max_context, self._budget.max_tokens),
            enough_tokens=None if self._scorer.device.type == "cuda" else _ENOUGH_TOKENS,
            # One call is computed while the next waits here, so no time is lost to sending replies.
            max_concurrency=2,
        )

    def _decides(self) -> dict[str, Any]:
        return {"reads_feedback": self._config.reads_feedback, **super()._decides()}
