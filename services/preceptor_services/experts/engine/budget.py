"""The memory budget of scoring, as amounts of work.

Activations, which grow with the tokens of a forward pass, and logits, which grow with rows times
vocabulary, each have a share. The share of entries, which remain after a call, is used by
`admission.py`. Weights are not in the budget.

Without a declared budget, passes are packed into a usual amount of memory, and a single longer
sequence may have a pass of its own, up to a half of what the machine has.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any, Final

_log = logging.getLogger(__name__)
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


@dataclass(frozen=True, kw_only=True)
class Memory:
    """The memory for scoring, in MiB."""

    declared: int | None
    """As set by the user; None where it is not set."""
    most: int
    """For the longest sequence, where none is declared."""


def context_of(memory: Memory, config: Any, *, element_bytes: int, max_context: int | None) -> int:
    """Tokens of the longest sequence.

    Args:
        memory: The memory for scoring.
        config: A transformers configuration of a decoder.
        element_bytes: Bytes of one activation.
        max_context: As set by the user; else the model's own limit, which is lowered where no
            memory is declared and the machine does not hold it.

    Raises:
        ValueError: `max_context` tokens do not fit.
    """
    own: int | None = getattr(config, "max_position_embeddings", None)
    room = fitting_tokens(memory.declared or memory.most, config, element_bytes)
    wanted = min((n for n in (own, max_context) if n is not None), default=room)
    if wanted <= room:
        return wanted
    if max_context is not None or memory.declared is not None:
        raise ValueError(_too_long(memory.declared, wanted, config, element_bytes, room))
    _log.warning(
        "max_context is %d of the model's %d tokens: more do not fit into %d MiB, half of this "
        "machine's memory; set max_context and memory_mb to decide otherwise",
        room,
        wanted,
        memory.most,
    )
    return room


def _too_long(declared: int | None, wanted: int, config: Any, element_bytes: int, room: int) -> str:
    per_token = token_bytes(config, element_bytes)
    needed = -(-wanted * per_token * _LOGITS_SHARE // (2 << 20))
    given = "half of this machine's memory" if declared is None else f"{declared}"
    return (
        f"memory_mb: {given} is enough for {room} tokens of {per_token} bytes, but max_context "
        f"is {wanted}; set memory_mb to {needed}, or max_context to {room}"
    )


def fitting_tokens(memory_mb: int, config: Any, element_bytes: int) -> int:
    """Tokens of one forward pass within `memory_mb`, of which activations have two shares."""
    return 2 * ((memory_mb << 20) // _LOGITS_SHARE) // token_bytes(config, element_bytes)


def budget_of(memory_mb: int, config: Any, *, element_bytes: int) -> Budget:
    """The work that fits into `memory_mb`.

    Args:
        memory_mb: MiB for activations, logits and answers together.
        config: A transformers configuration of a decoder.
        element_bytes: Bytes of one activation.
    """
    share = (memory_mb << 20) // _LOGITS_SHARE
    return Budget(
        max_tokens=max(1, fitting_tokens(memory_mb, config, element_bytes)),
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
