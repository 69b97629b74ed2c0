"""The memory budget of scoring, as amounts of work.

Activations, which grow with the tokens of a forward pass, and logits, which grow with rows times
vocabulary, each have a share. The share of entries, which remain after a call, is used by
`admission.py`. Weights are not in the budget.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

_LOGITS_SHARE: Final = 4
"""Number of shares: one is for logits, one for answers, and two are for activations."""
_BYTES_PER_LOGIT: Final = 8
"""Bytes of one element, with its part of the float32 copies of a block or of the searched runs."""
_BYTES_PER_ENTRY: Final = 40
"""Bytes of an id and a log-prob, with their copies on the way into a reply."""


@dataclass(frozen=True, kw_only=True)
class Budget:
    """Bounds of the work in model and head at a time, and of the answers that wait to be sent."""

    max_tokens: int = 65_536
    """Packed tokens of one forward pass; a longer sequence gets its own pass."""
    max_logits: int = 32 << 20
    """Elements of `[rows, vocabulary]` at a time."""
    max_entries: int = 16 << 20
    """Entries of all unsent answers: positions times top-k and candidates."""

    def __post_init__(self) -> None:
        for field in ("max_tokens", "max_logits", "max_entries"):
            if getattr(self, field) < 1:
                raise ValueError(f"{field}: {getattr(self, field)} is below 1")


DEFAULT_BUDGET: Final = Budget()


def budget_of(memory_mb: int, config: Any, *, element_bytes: int, max_context: int) -> Budget:
    """The work that fits into `memory_mb`.

    Args:
        memory_mb: MiB for activations, logits and answers together.
        config: A transformers configuration of a decoder.
        element_bytes: Bytes of one activation.
        max_context: Tokens of the longest sequence, which must fit.

    Raises:
        ValueError: The longest sequence does not fit.
    """
    share = (memory_mb << 20) // _LOGITS_SHARE
    per_token = token_bytes(config, element_bytes)
    # Two of the four shares. A budget that cannot hold the longest sequence is refused at the
    # start, not at the first long sequence.
    max_tokens = 2 * share // per_token
    if max_tokens < max_context:
        raise ValueError(
            f"memory_mb: {memory_mb} is enough for {max_tokens} tokens of {per_token} bytes, "
            f"but max_context is {max_context}; raise memory_mb or lower max_context"
        )
    return Budget(
        max_tokens=max_tokens,
        max_logits=share // _BYTES_PER_LOGIT,
        max_entries=share // _BYTES_PER_ENTRY,
    )


def token_bytes(config: Any, element_bytes: int) -> int:
    """Upper estimate of the bytes of one token's activations in a decoder layer.

    Residual, its norm in float32, queries, keys and values before and after their rotation, and
    the three products of a gated MLP.
    """
    hidden: int = config.hidden_size
    heads: int = config.num_attention_heads
    key_heads: int = getattr(config, "num_key_value_heads", None) or heads
    head_dim: int = getattr(config, "head_dim", None) or hidden // heads
    inner: int = getattr(config, "intermediate_size", None) or 4 * hidden
    attention = 4 * (heads + 2 * key_heads) * head_dim
    # The last term is always in float32, because norms are computed in it.
    return element_bytes * (4 * hidden + attention + 4 * inner) + 4 * 4 * hidden
