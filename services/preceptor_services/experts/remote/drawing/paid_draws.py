"""Keeps the paid draws of unfinished answers, so that a retry pays only for the missing ones.

A query fails completely when one of its calls fails, and is retried under the same answer key. Its
positions then stay the same, even if fewer calls are left, so that the probabilities in the answer
are those of the draw.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import numpy as np
from cachetools import LRUCache

from preceptor_clients.contract.schemas import PrefixQuery

_MOST: Final = 1024
"""Most unfinished answers to keep; the oldest are dropped first."""


class Chosen(NamedTuple):
    """The positions of one query."""

    at_P: np.ndarray
    """Drawn rows of the query."""
    inclusion_P: np.ndarray


class Drawn(NamedTuple):
    """The draws at one position."""

    tokens: Counter[int]
    num_calls: int
    elsewhere: Counter[str]
    """Number of replies whose text is in another field, by that field."""


@dataclass
class PaidDraws:
    """The draws so far of one answer."""

    chosen: Chosen | None = None
    by_row: dict[int, Drawn] = field(default_factory=dict[int, Drawn])


class UnfinishedAnswers:
    """Draws by answer key and response, so that a reused key does not mix up two responses."""

    def __init__(self) -> None:
        self._kept: LRUCache[tuple[str, bytes, object], PaidDraws] = LRUCache(_MOST)

    def of(self, query: PrefixQuery, answer_key: str | None) -> PaidDraws:
        """The draws so far of this query; empty where it has no key."""
        if answer_key is None:
            return PaidDraws()
        return self._kept.setdefault(_key(query, answer_key), PaidDraws())

    def forget(self, query: PrefixQuery, answer_key: str | None) -> None:
        """Drops the draws of a finished answer."""
        if answer_key is not None:
            self._kept.pop(_key(query, answer_key), None)


def _key(query: PrefixQuery, answer_key: str) -> tuple[str, bytes, object]:
    return answer_key, query.response_ids.tobytes(), query.positions
