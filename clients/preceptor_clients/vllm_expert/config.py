"""Options of the vLLM expert."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

_OURS: Final = frozenset(
    {"model", "dtype", "max_model_len", "max_logprobs", "logprobs_mode"}
    | {"max_num_batched_tokens", "worker_extension_cls"}
)
_BYTES_PER_LOGIT: Final = 12
"""The head's output, its float32 copy and the log-probs."""
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
    """Puts the feedback of a query into the prompt; else the feedback is left out."""
    template: str = "compact"
    """`compact`, `papers`, or the path of a Jinja file."""
    weights_roots: tuple[str, ...] = ()
    """Folders under which versions of a policy's weights may lie; none where weights are fixed."""
    dtype: str = "bfloat16"
    """Of weights and activations."""
    max_context: int | None = None
    """Tokens of context and response together; the model's own limit less one where absent."""
    max_top_k: int = 1024
    """Most entries per position."""
    max_batch: int = 64
    """Queries in one call."""
    max_concurrency: int = 8
    """Calls at a time; vLLM puts their sequences into common batches."""
    logits_mb: int = 1024
    """MiB that logits may take beside weights and cache. vLLM does not count them among its needs,
    and computes those of a whole prefill chunk at once: this sets the size of the chunk."""
    engine: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Further arguments of vLLM's `AsyncEngineArgs`, such as `tensor_parallel_size`."""

    def __post_init__(self) -> None:
        if not Path(self.model, "config.json").is_file():
            raise ValueError(f"model: {self.model!r} is no folder with a config.json")
        if isinstance(self.weights_roots, str):
            raise ValueError("weights_roots: is one text, wants a list of folders")
        for name in ("max_top_k", "max_batch", "max_concurrency", "logits_mb"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: {getattr(self, name)} is below 1")
        if self.max_context is not None and self.max_context < 2:
            raise ValueError(f"max_context: {self.max_context} is below 2")
        if taken := sorted(_OURS & self.engine.keys()):
            raise ValueError(f"engine: {taken} are decided by other options")

    def chunk_tokens(self, vocab_rows: int) -> int:
        """Tokens of one prefill chunk, so that its logits stay within `logits_mb`."""
        fitting = (self.logits_mb << 20) // (_BYTES_PER_LOGIT * vocab_rows)
        if fitting < _FEWEST_TOKENS:
            raise ValueError(
                f"logits_mb: {self.logits_mb} MiB hold logits of {fitting} tokens over "
                f"{vocab_rows} rows; {_FEWEST_TOKENS} are the least"
            )
        return min(fitting, _MOST_TOKENS)
