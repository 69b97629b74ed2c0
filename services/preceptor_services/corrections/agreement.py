"""Agreement between people who worked on the same item without seeing each other. Pure.

Decisions are compared with Scott's pi: chance agreement comes from one distribution pooled over all
people, because any two of many people may work on the same item.
"""

from __future__ import annotations

import difflib
import itertools
from collections import Counter
from collections.abc import Sequence
from typing import Final, NamedTuple

from preceptor_clients.contract.corrections import Agreement

_COMPARED_CHARS: Final = 4_000
"""Characters compared after the first difference, at most: the cost is quadratic in it."""


class Opinion(NamedTuple):
    """One person's decision on an item, with the final text."""

    decision: str
    text: str
    """The final text: the response itself where it was accepted or only remarked on."""


class Double(NamedTuple):
    """One item that several people worked on."""

    response_text: str
    opinions: tuple[Opinion, ...]


def agreement(doubles: Sequence[Double], upheld: Sequence[tuple[str, bool]]) -> Agreement:
    """Figures over every pair of people on every item.

    Args:
        doubles: Items with at least one opinion; items with exactly one opinion add nothing.
        upheld: (person, whether a reviewer chose their version) for every reviewed version.
    """
    pairs = [
        (item.response_text, a, b)
        for item in doubles
        for a, b in itertools.combinations(item.opinions, 2)
    ]
    edits = [(text, a, b) for text, a, b in pairs if a.decision == b.decision == "edit"]
    texts = [(a, b) for _, a, b in pairs if "comment" not in (a.decision, b.decision)]
    return Agreement(
        pairs=len(pairs),
        same_decision=_mean([a.decision == b.decision for _, a, b in pairs]),
        kappa=scotts_pi([(a.decision, b.decision) for _, a, b in pairs]),
        same_text=_mean([a.text == b.text for a, b in texts]),
        same_departure=_mean(
            [shared_prefix(text, a.text) == shared_prefix(text, b.text) for text, a, b in edits]
        ),
        similarity=_mean([similarity(a.text, b.text) for a, b in texts]),
        upheld=_upheld(upheld),
    )


def scotts_pi(pairs: Sequence[tuple[str, str]]) -> float | None:
    """Agreement beyond chance: 1 is perfect, 0 is chance; None where it is not defined."""
    if not pairs:
        return None
    counts = Counter(decision for pair in pairs for decision in pair)
    chance = sum((count / (2 * len(pairs))) ** 2 for count in counts.values())
    if chance >= 1:
        return None  # All decisions are the same: the statistic is not defined.
    observed = sum(a == b for a, b in pairs) / len(pairs)
    return (observed - chance) / (1 - chance)


def shared_prefix(a: str, b: str) -> int:
    """Length of the common prefix, in characters."""
    shortest = min(len(a), len(b))
    return next((i for i in range(shortest) if a[i] != b[i]), shortest)


def similarity(a: str, b: str) -> float:
    """0 to 1: share of common characters, in order; only the start of a long difference counts."""
    if a == b:
        return 1.0
    start = shared_prefix(a, b)
    end = shared_prefix(a[start:][::-1], b[start:][::-1])
    kept = start + end
    middle_a, middle_b = a[start : len(a) - end], b[start : len(b) - end]
    cut_a, cut_b = middle_a[:_COMPARED_CHARS], middle_b[:_COMPARED_CHARS]
    matcher = difflib.SequenceMatcher(None, cut_a, cut_b, autojunk=False)
    alike = sum(block.size for block in matcher.get_matching_blocks())
    return 2 * (kept + alike) / (len(a) + len(b))


def _mean(values: Sequence[float | bool]) -> float | None:
    return sum(values) / len(values) if values else None


def _upheld(reviewed: Sequence[tuple[str, bool]]) -> dict[str, float]:
    people = sorted({person for person, _ in reviewed})
    return {
        person: sum(chosen for name, chosen in reviewed if name == person)
        / sum(name == person for name, _ in reviewed)
        for person in people
    }
