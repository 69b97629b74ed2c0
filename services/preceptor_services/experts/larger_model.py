"""A larger model of the student's vocabulary, as an expert: fixed weights, scored by one prefill.

    preceptor serve preceptor_services.experts.larger_model:LargerModel --option model=FOLDER

It reads the plain prompt; with `reads_feedback` it reads what the self-teacher would read
(`context.py`). Whether its ids mean what the student's mean, the fingerprint of the vocabulary
decides. Weights are held once, in `dtype`; `memory_mb` bounds what scoring takes besides.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from preceptor_clients.contract.schemas import ServiceLimits
from preceptor_services.experts.model import Precision
from preceptor_services.experts.torch_expert import TorchExpert, TorchExpertConfig

_ENOUGH_TOKENS: Final = 2048
"""Cores are busy with so many; answers travel while the next are computed."""
CODE_VERSION: Final = "4"
"""Raised whenever the same model, settings and query may give another answer."""


@dataclass(frozen=True, kw_only=True)
class LargerModelConfig(TorchExpertConfig):
    """Options of a larger model."""

    name: str = "larger-model"
    """The expert's name in its answers."""
    reads_feedback: bool = False
    """Puts the feedback of a query into the prompt; else the feedback is left out."""
    dtype: Precision = "bfloat16"
    """Of weights and activations; log-probs are float32 always."""
    memory_mb: int = 2048
    """MiB that scoring may take beside the weights; more work than fits waits its turn."""


class LargerModel(TorchExpert):
    """An expert of the SDK; every option is a field of `LargerModelConfig`."""

    def __init__(self, **options: Any) -> None:
        self._config = LargerModelConfig(**options)
        super().__init__(
            self._config,
            CODE_VERSION,
            reads_feedback=self._config.reads_feedback,
            keep_initial=False,
        )

    def _limits(self) -> ServiceLimits:
        return ServiceLimits(
            max_batch=self._config.max_batch,
            max_batch_tokens=max(self._max_context, self._budget.max_tokens),
            enough_tokens=None if self._scorer.device.type == "cuda" else _ENOUGH_TOKENS,
            # One is computed while the next waits here, and not for a reply to travel.
            max_concurrency=2,
        )

    def _decides(self) -> dict[str, Any]:
        return {"reads_feedback": self._config.reads_feedback, **super()._decides()}
