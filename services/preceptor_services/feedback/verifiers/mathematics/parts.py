"""Compares values part by part: in order, or each with one of the others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

Compare = Callable[[Any, Any], bool | None]
"""Whether two values are the same; None where it cannot be said."""


def in_order(gold: Sequence[Any], given: Sequence[Any], compare: Compare) -> bool | None:
    """Whether each is the same as the one in its place."""
    if len(gold) != len(given):
        return False
    return every([compare(one, other) for one, other in zip(gold, given, strict=True)])


def matched(gold: Sequence[Any], given: Sequence[Any], compare: Compare) -> bool | None:
    """Whether each has its own equal among the others."""
    if len(gold) != len(given):
        return False
    left, open_ones = list(given), False
    for one in gold:
        found = [compare(one, other) for other in left]
        if True in found:
            left.pop(found.index(True))
        elif None in found:
            open_ones = True
        else:
            return False
    return None if open_ones else True


def every(found: Sequence[bool | None]) -> bool | None:
    """Whether all are so; one that is not decides, whatever the open ones are."""
    return False if False in found else None if None in found else True
