"""Options of the vLLM expert."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

_OURS: Final = frozenset(
    {"model", "dtype", "max_model_len", "max_logprobs", "logprobs_mode"}
    | {"max_num_batched_tokens", "worker_extension_cls"}
)
_BYTES_PER_LOGIT: Final = 12
"""Copies of the logits in memory: the head's output, its float32 copy and the log-probs."""
_FEWEST_TOKENS: Final = 256
_MOST_TOKENS: Final = 8192


@dataclass(frozen=True, kw_only=True)
class VLLMExpertConfig:
    """Each field is an option of the service."""

    model: str
    """Hugging Face folder with architecture, tokenizer and weights."""
    name: str = "vllm"
    """The expert's name in its answers."""
    reads_feedback: bool = False
    """Whether the feedback of a query is put into the prompt; else it is left out."""
    template: str = "compact"
    """`compact`, `papers`, `sdpo`, or the path of a Jinja file."""
    weights_roots: tuple[str, ...] = ()
    """Folders under which versions of a policy's weights may lie; none where weights are fixed."""
    dtype: str = "bfloat16"
    """Data type of weights and activations."""
    rounding: Literal["nearest", "stochastic"] = "nearest"
    """How float32 weights of a policy's version become bfloat16. `stochastic`: up or down by
    chance, so that the mean is the weight. To the nearest, steps are lost until they add up to half
    of a bfloat16's last place. For a trainer that computes in float32."""
    max_context: int | None = None
    """Tokens of context and response together; the model's own limit less one where absent."""
    max_top_k: int = 1024
    """Most entries per position."""
    max_batch: int = 64
    """Queries in one call."""
    max_concurrency: int = 8
    """Concurrent calls; vLLM batches their sequences together."""
    logits_mb: int = 1024
    """MiB for logits, beside weights and cache. vLLM does not include logits in its memory budget
    and computes those of a whole prefill chunk together; this option sets the size of the chunk."""
    chat_template_kwargs: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Further variables of the chat template, such as `{"enable_thinking": false}`; as for the
    student."""
    engine: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Further arguments of vLLM's `AsyncEngineArgs`, such as `tensor_parallel_size`."""

    def __post_init__(self) -> None:
        if not Path(self.model, "config.json").is_file():
            raise ValueError(f"model: {self.model!r} is not a folder with a config.json")
        if isinstance(self.weights_roots, str):
            raise ValueError("weights_roots: is a single text, expected a list of folders")
        for name in ("max_top_k", "max_batch", "max_concurrency", "logits_mb"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: {getattr(self, name)} is below 1")
        if self.max_context is not None and self.max_context < 2:
            raise ValueError(f"max_context: {self.max_context} is below 2")
        if self.rounding not in ("nearest", "stochastic"):
            raise ValueError(f"rounding: {self.rounding!r} is not `nearest` or `stochastic`")
        if self.rounding == "stochastic" and self.dtype != "bfloat16":
            raise ValueError(f"rounding: `stochastic` is for bfloat16, and dtype is {self.dtype}")
        if taken := sorted(_OURS & self.engine.keys()):
            raise ValueError(
                f"engine: {taken} must not be set here; use the options of this service"
            )

    def chunk_tokens(self, vocab_rows: int) -> int:
        """Tokens of one prefill chunk, so that its logits stay within `logits_mb`."""
        fitting = (self.logits_mb << 20) // (_BYTES_PER_LOGIT * vocab_rows)
        if fitting < _FEWEST_TOKENS:
            raise ValueError(
                f"logits_mb: {self.logits_mb} MiB hold the logits of {fitting} tokens at "
                f"{vocab_rows} rows; at least {_FEWEST_TOKENS} tokens are needed"
            )
        return min(fitting, _MOST_TOKENS)
