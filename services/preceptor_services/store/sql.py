"""Helpers of queries by several keys."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

_MOST_KEYS: Final = 8192


def padded(keys: Sequence[str]) -> list[str]:
    """`keys`, the last one repeated up to a power of two.

    Each length of an `IN` list is a separate statement, and PostgreSQL prepares it on every
    connection.
    """
    length = 1 << (len(keys) - 1).bit_length() if keys else 0
    return [*keys, *[keys[-1] for _ in range(length - len(keys))]]


def in_parts(keys: Iterable[str]) -> list[list[str]]:
    """`keys` in lists that fit into one statement: PostgreSQL allows 32,767 parameters in one."""
    every = list(keys)
    return [every[start : start + _MOST_KEYS] for start in range(0, len(every), _MOST_KEYS)]
