"""How much memory scoring may take, as amounts of work.

What grows with the tokens of a forward pass (activations) and what grows with rows times vocabulary
(logits) get a share each; what stays after a call (entries) is the part of `admission.py`. Weights
are not in the budget.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

_LOGITS_SHARE: Final = 4
"""One part in so many is for logits, one for answers, and two are for activations."""
_BYTES_PER_LOGIT: Final = 8
"""One element, and its share of the float32 copies of a block or of the runs searched."""
_BYTES_PER_ENTRY: Final = 40
"""An id and a log-prob, and what becomes of them on the way into a reply."""


@dataclass(frozen=True, kw_only=True)
class Budget:
    """What goes through model and head at a time, and what may wait to be sent."""

    max_tokens: int = 65_536
    """Packed tokens of one forward pass; a longer sequence goes alone."""
    max_logits: int = 32 << 20
    """Elements of `[rows, vocabulary]`."""
    max_entries: int = 16 << 20
    """Entries of all answers under way: positions times top-k and candidates."""

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
        element_bytes: Of one activation.
        max_context: Tokens of the longest sequence, which must fit.

    Raises:
        ValueError: It does not.
    """
    share = (memory_mb << 20) // _LOGITS_SHARE
    per_token = token_bytes(config, element_bytes)
    # Two of the four shares; a budget that cannot hold the longest sequence is refused now rather
    # than at the first long one.
    max_tokens = 2 * share // per_token
    if max_tokens < max_context:
        raise ValueError(
            f"memory_mb: {memory_mb} holds {max_tokens} tokens at {per_token} bytes, "
            f"max_context is {max_context}"
        )
    return Budget(
        max_tokens=max_tokens,
        max_logits=share // _BYTES_PER_LOGIT,
        max_entries=share // _BYTES_PER_ENTRY,
    )


def token_bytes(config: Any, element_bytes: int) -> int:
    """Activations of one token that are alive at once in a decoder layer, generously.

    Residual, its norm in float32, queries, keys and values before and after their rotation, and
    the three products of a gated MLP.
    """
    hidden: int = config.hidden_size
    heads: int = config.num_attention_heads
    key_heads: int = getattr(config, "num_key_value_heads", None) or heads
    head_dim: int = getattr(config, "head_dim", None) or hidden // heads
    inner: int = getattr(config, "intermediate_size", None) or 4 * hidden
    attention = 4 * (heads + 2 * key_heads) * head_dim
    # The last term is in float32 whatever the model is in: norms compute there.
    return element_bytes * (4 * hidden + attention + 4 * inner) + 4 * 4 * hidden
