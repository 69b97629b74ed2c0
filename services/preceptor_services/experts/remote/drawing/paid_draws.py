"""What is paid for, of answers that are not whole yet: whoever asks again pays for the rest alone.

A query fails as a whole when one of its calls does, and is asked again under the same answer key.
Its positions are the same then, also where fewer calls are left by now, so that the chances that
travel with the answer are those by which it was drawn.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import numpy as np
from cachetools import LRUCache

from preceptor_clients.contract.schemas import PrefixQuery

_MOST: Final = 1024
"""Answers remembered; those that nobody asks for again are forgotten, the oldest first."""


class Chosen(NamedTuple):
    """The positions of one query."""

    at_P: np.ndarray
    """Rows of the query that are asked about."""
    inclusion_P: np.ndarray


class Drawn(NamedTuple):
    """What came of one position."""

    tokens: Counter[int]
    num_calls: int
    elsewhere: Counter[str]
    """Replies whose text stands in another field, by that field."""


@dataclass
class PaidDraws:
    """What there is of one answer."""

    chosen: Chosen | None = None
    by_row: dict[int, Drawn] = field(default_factory=dict[int, Drawn])


class UnfinishedAnswers:
    """Draws by answer key and response: a key that a caller uses twice must mix nothing up."""

    def __init__(self) -> None:
        self._kept: LRUCache[tuple[str, bytes, object], PaidDraws] = LRUCache(_MOST)

    def of(self, query: PrefixQuery, answer_key: str | None) -> PaidDraws:
        """What there is for this question; nothing where it has no key."""
        if answer_key is None:
            return PaidDraws()
        return self._kept.setdefault(_key(query, answer_key), PaidDraws())

    def forget(self, query: PrefixQuery, answer_key: str | None) -> None:
        """The answer is whole."""
        if answer_key is not None:
            self._kept.pop(_key(query, answer_key), None)


def _key(query: PrefixQuery, answer_key: str) -> tuple[str, bytes, object]:
    return answer_key, query.response_ids.tobytes(), query.positions
