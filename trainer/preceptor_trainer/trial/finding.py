"""A finding of a trial: what is wrong, and what to do."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """One thing that a user should know before training."""

    what: str
    """What was found."""
    remedy: str
    """What to do about it."""
    is_mistake: bool = True
    """Whether training would be wasted; false for what may be meant."""


def counted(number: int, noun: str) -> str:
    """`1 row`, `2 rows`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
