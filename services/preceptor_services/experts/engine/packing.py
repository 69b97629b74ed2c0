"""Sequences as a tree of their common prefixes, packed token by token.

A common prefix of several sequences is computed once: the prompt of a group of rollouts, the
question before different feedback, a rollout that was sampled twice. Each node of the tree is a
*segment*: its tokens attend causally to the segment itself, and to every token of the segments
above it. There is no padding.

    sequences  a b c d     a b c e     x y
    packed     a b c | d | e | x y
    places     0 1 2   3   3   0 1

A branch needs a separate attention call in every layer, so prefixes shorter than `min_shared`
tokens are computed again instead. Sources: radix trees of prefixes (SGLang, arXiv 2312.07104), tree
attention over one packed sequence.

Example:
    packed = pack([np.array([1, 2, 3, 4]), np.array([1, 2, 3, 5])], min_shared=2)
    packed.tokens_N          # [1 2 3 4 5]
    packed.rows[1]           # [0 1 2 4]: indices of the tokens of the second sequence

Dimensions: N packed tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import numpy as np

MIN_SHARED: Final = 16
"""Number of tokens from which sharing is faster than computing again, on a CPU at hidden size
256."""


@dataclass(frozen=True, kw_only=True)
class Segment:
    """A run of packed tokens, and the runs before it in its sequences, in order."""

    start: int
    stop: int
    above: tuple[tuple[int, int], ...] = ()

    @property
    def num_above(self) -> int:
        """Tokens before this segment in its own sequences."""
        return sum(stop - start for start, stop in self.above)


@dataclass(frozen=True, kw_only=True)
class Packed:
    """Sequences packed for one forward pass."""

    tokens_N: np.ndarray
    """`[N]` int64 token ids."""
    places_N: np.ndarray
    """`[N]` int64 index of each token in its own sequence."""
    segments: tuple[Segment, ...]
    """The segments, which cover `[0, N)` in order."""
    rows: tuple[np.ndarray, ...]
    """For each sequence, the packed index of each of its tokens."""

    @property
    def longest(self) -> int:
        """Tokens of the longest sequence."""
        return int(self.places_N.max()) + 1


def pack(sequences: Sequence[np.ndarray], *, min_shared: int = MIN_SHARED) -> Packed:
    """Packs `sequences`, none of them empty; equal prefixes become one segment."""
    order = _sorted(sequences)
    # Two sequences share the minimum of what the neighbours between them share.
    shared = [_num_shared(sequences[a], sequences[b]) for a, b in pairwise(order)]
    layout = _Layout(sequences, max(1, min_shared))
    layout.add(order, shared, (), 0)
    return layout.packed()


def plan_passes(
    sequences: Sequence[np.ndarray], *, max_tokens: int, min_shared: int = MIN_SHARED
) -> list[list[int]]:
    """Splits sequences into forward passes.

    Sequences with a common prefix stay together where they fit; a sequence that alone exceeds
    `max_tokens` gets its own pass.
    """
    passes: list[list[int]] = []
    room = 0
    # In the order of the tree: neighbours share most, so a sequence can share tokens only with the
    # last pass.
    for index in _sorted(sequences):
        sequence = sequences[index]
        added = len(sequence)
        if passes and (shared := _num_shared(sequences[passes[-1][-1]], sequence)) >= min_shared:
            # A prefix that is shared with an earlier sequence may count a few tokens twice.
            added = min(added, added - shared + min_shared)
        if not passes or added > room:
            passes.append([])
            added, room = len(sequence), max_tokens
        passes[-1].append(index)
        room -= added
    return passes


def _sorted(sequences: Sequence[np.ndarray]) -> list[int]:
    # Big-endian bytes sort in the same order as the ids, and are fast to compare.
    return sorted(range(len(sequences)), key=lambda i: sequences[i].astype(">u4").tobytes())


def _num_shared(a: np.ndarray, b: np.ndarray) -> int:
    length = min(len(a), len(b))
    differs = a[:length] != b[:length]
    return int(differs.argmax()) if differs.any() else length


class _Layout:
    """The layout built so far."""

    def __init__(self, sequences: Sequence[np.ndarray], min_shared: int) -> None:
        self._sequences = sequences
        self._min_shared = min_shared
        self._segments: list[Segment] = []
        self._pieces: list[np.ndarray] = []
        self._places: list[np.ndarray] = []
        self._size = 0
        self._rows: list[list[tuple[int, int]]] = [[] for _ in sequences]

    def packed(self) -> Packed:
        return Packed(
            tokens_N=np.concatenate(self._pieces).astype(np.int64),
            places_N=np.concatenate(self._places),
            segments=tuple(self._segments),
            rows=tuple(_indices(runs) for runs in self._rows),
        )

    def add(
        self,
        members: Sequence[int],
        shared: Sequence[int],
        above: tuple[tuple[int, int], ...],
        depth: int,
    ) -> None:
        """Adds sorted sequences whose first `depth` tokens are equal and already in `above`.

        `shared[i]` is the length of the common prefix of members i and i + 1.
        """
        for first, last in self._families(shared, depth):
            family, inner = members[first : last + 1], shared[first:last]
            common = min(inner, default=len(self._sequences[family[0]]))
            below = above
            if common > depth:
                below = (*above, self._append(self._sequences[family[0]], depth, common, above))
            # Sequences that end here come first in sorted order and need no further segment.
            ended = sum(len(self._sequences[member]) == common for member in family)
            for member in family[:ended]:
                self._rows[member] = list(below)
            if ended < len(family):
                self.add(family[ended:], inner[ended:], below, common)

    def _families(self, shared: Sequence[int], depth: int) -> list[tuple[int, int]]:
        """First and last index of each run of neighbours that share enough tokens after `depth`."""
        # Measured from `depth`: the tokens before it are shared already.
        cuts = [i for i, n in enumerate(shared) if n - depth < self._min_shared]
        return list(zip([0, *(i + 1 for i in cuts)], [*cuts, len(shared)], strict=True))

    def _append(
        self, sequence: np.ndarray, start: int, stop: int, above: tuple[tuple[int, int], ...]
    ) -> tuple[int, int]:
        run = (self._size, self._size + stop - start)
        self._segments.append(Segment(start=run[0], stop=run[1], above=above))
        self._pieces.append(sequence[start:stop])
        self._places.append(np.arange(start, stop))
        self._size = run[1]
        return run


def _indices(runs: Sequence[tuple[int, int]]) -> np.ndarray:
    return np.concatenate([np.arange(start, stop) for start, stop in runs])
