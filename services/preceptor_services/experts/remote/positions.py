"""Draws the positions that an expert with few calls scores.

Positions are drawn without replacement with probabilities in proportion to a weight: equal, by the
student's entropy, or higher where the feedback refers to. No probability is 0, so that costs
divided by it are unbiased over all positions for any weights. A deterministic choice would give no
information about the other positions. The draw is systematic sampling in a random order (Madow
1949), which gives every position exactly its probability: pi_t = min(1, c w_t) with c such that
they add up to the number drawn.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from typing import Final, Literal

import numpy as np

from preceptor_clients.contract.schemas import FeedbackItem, PrefixQuery

Choice = Literal["random", "entropy", "feedback"]
_FLOOR: Final = 0.1
"""Least weight of a position, as a share of the mean."""
_POINTED: Final = 8.0
"""Weight of a token that the feedback refers to; other tokens have weight 1."""
_LINE: Final = re.compile(r"\bline (\d{1,6})\b", re.IGNORECASE)
_QUOTED: Final = re.compile(r"`([^`\n]{2,200})`|\"([^\"\n]{2,200})\"|'([^'\n]{2,200})'")


def entropy_weights(entropy_P: np.ndarray) -> np.ndarray:
    """Weights in proportion to entropy, with a floor; equal where all are certain."""
    mean = float(entropy_P.mean()) if len(entropy_P) else 0.0
    if mean <= 0:
        return np.ones(len(entropy_P))
    return np.maximum(entropy_P.astype(np.float64), _FLOOR * mean)


def feedback_weights(pieces: Sequence[str], feedback: Sequence[FeedbackItem]) -> np.ndarray:
    """`[T]` higher weights on the lines that feedback numbers and the words that it quotes.

    Args:
        pieces: The text of each response token.
        feedback: The feedback on the attempt.
    """
    text = "".join(pieces)
    pointed = np.zeros(len(text), np.bool_)
    for start, stop in _spans(text, [item.text for item in feedback if item.text]):
        pointed[start:stop] = True
    weights, start = np.ones(len(pieces)), 0
    for t, piece in enumerate(pieces):
        if pointed[start : start + len(piece)].any():
            weights[t] = _POINTED
        start += len(piece)
    return weights


def inclusion(weights: np.ndarray, num: int) -> np.ndarray:
    """`[N]` inclusion probabilities: in proportion to the weights, at most 1, with sum `num`."""
    if num >= len(weights):
        return np.ones(len(weights))
    chances = np.ones(len(weights))
    free = np.ones(len(weights), np.bool_)
    while True:
        share = (num - (~free).sum()) / weights[free].sum()
        chances[free] = weights[free] * share
        over = free & (chances >= 1.0)
        if not over.any():
            return chances
        chances[over] = 1.0
        free &= ~over


def draw(chances: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Drawn indices, ascending; each has exactly its probability, and their number is its sum."""
    order = generator.permutation(len(chances))
    ends = np.cumsum(chances[order])
    steps = np.ceil(np.round(ends, 9) - generator.uniform(1e-6, 1.0 - 1e-6)).astype(np.int64)
    return np.sort(order[np.diff(steps, prepend=0) > 0])


def generator_of(expert: tuple[str, ...], query: PrefixQuery) -> np.random.Generator:
    """A generator seeded by expert and query, so that a retry draws the same positions.

    The seed includes the expert, so that two experts draw independently. The trainer assumes this
    for the probability that at least one of them drew a position.
    """
    seed = hashlib.sha256(query.response_ids.tobytes())
    seed.update("\0".join((*expert, str(query.draw))).encode())
    if query.rollout_id is not None:
        seed.update(query.rollout_id.encode())
    return np.random.default_rng(int.from_bytes(seed.digest()[:8], "little"))


def _spans(text: str, remarks: Sequence[str]) -> list[tuple[int, int]]:
    found = list[tuple[int, int]]()
    lines = [0, *(m.end() for m in re.finditer("\n", text)), len(text)]
    for remark in remarks:
        for match in _LINE.finditer(remark):
            number = int(match[1])
            if 1 <= number < len(lines):
                found.append((lines[number - 1], lines[number]))
        for match in _QUOTED.finditer(remark):
            quoted = next(group for group in match.groups() if group)
            found += [(m.start(), m.end()) for m in re.finditer(re.escape(quoted), text)]
    return found
