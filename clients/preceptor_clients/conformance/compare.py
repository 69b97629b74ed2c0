"""Distance between two rows of log-probs that list only their best entries."""

from __future__ import annotations

from typing import Final

import numpy as np

from preceptor_clients.contract.schemas import PrefixAnswer

CHANGED: Final = 1.1e-3
"""Two steps of the 16-bit grid: a difference above this is not rounding."""
_RELATIVE_TAIL: Final = 2.0
_SMALL_TAIL: Final = 0.01
"""A tail is 1 minus the sum of the entries, so it changes by the sum of their changes."""
_COMPARED: Final = 8
"""Best entries of either row that are compared: in bf16 the unlikely ones are noise."""


def entries(answer: PrefixAnswer, row: int) -> dict[int, float]:
    """Log-probs of one row by id; empty where the expert has no opinion."""
    if not answer.mask_P[row]:
        return {}
    n = int(answer.num_entries_P[row])
    ids, logprobs = answer.ids_PK[row, :n], answer.logprobs_PK[row, :n]
    return {int(i): float(x) for i, x in zip(ids, logprobs, strict=True)}


def distance(a: PrefixAnswer, row_a: int, b: PrefixAnswer, row_b: int) -> float:
    """Largest difference among the best entries of either row, in nats.

    The log-prob of an id that one row leaves out is at most that of its last entry; only the excess
    over that bound counts. A row without an opinion is infinitely far from a row with one.
    """
    return apart(entries(a, row_a), entries(b, row_b))


def apart(one: dict[int, float], other: dict[int, float]) -> float:
    """`distance` between two rows as log-probs by id."""
    if not one or not other:
        return 0.0 if one == other else float("inf")
    return max(_above(one, other), _above(other, one))


def _above(one: dict[int, float], other: dict[int, float]) -> float:
    last = min(other.values())
    best = sorted(one.items(), key=lambda entry: -entry[1])[:_COMPARED]
    return max(abs(x - other[i]) if i in other else max(0.0, x - last) for i, x in best)


def changed(a: PrefixAnswer, row_a: int, b: PrefixAnswer, row_b: int) -> bool:
    """Whether two rows differ by more than rounding, in any entry or the tail."""
    one, other = entries(a, row_a), entries(b, row_b)
    if one.keys() != other.keys():
        # Ties at the end of the list may be ordered either way; only a changed log-prob counts.
        return distance(a, row_a, b, row_b) > CHANGED or _last_differs(one, other)
    return any(abs(x - other[i]) > CHANGED for i, x in one.items())


def _last_differs(one: dict[int, float], other: dict[int, float]) -> bool:
    ordered = [np.sort(np.array(list(e.values()))) for e in (one, other)]
    if len(ordered[0]) != len(ordered[1]):
        return True
    return bool((np.abs(ordered[0] - ordered[1]) > CHANGED).any())


def widest(a: PrefixAnswer, b: PrefixAnswer) -> float:
    """Largest `distance` over the rows of two answers to the same positions."""
    return max((distance(a, t, b, t) for t in range(len(a.mask_P))), default=0.0)


def departure(before: PrefixAnswer, after: PrefixAnswer, tolerance: float) -> str | None:
    """How an answer differs from one to the same question; None where it does not.

    Entries, tails, candidates and own log-probs are compared. A value that is masked now and was
    not before is a difference.
    """
    for name in ("mask_P", "own_mask_P", "candidate_mask_PC"):
        was, now = getattr(before, name), getattr(after, name)
        if was is not None and (now is None or bool((was & ~now).any())):
            return f"{name}: a value is masked that was given before"
    gap = widest(before, after)
    if gap > tolerance:
        return f"entries are {gap:.3f} apart"
    tails = np.abs(before.tail_P - after.tail_P)
    if (tails > _RELATIVE_TAIL * tolerance * before.tail_P + _SMALL_TAIL)[before.mask_P].any():
        return f"tails are {tails.max():.3f} apart"
    both = before.own_mask_P
    if both.any() and float(np.abs(before.own_logprobs_P - after.own_logprobs_P)[both].max()) > (
        tolerance
    ):
        return "own log-probs differ"
    if before.candidate_logprobs_PC is None or after.candidate_logprobs_PC is None:
        return None
    apart = np.abs(before.candidate_logprobs_PC - after.candidate_logprobs_PC)
    known = before.candidate_mask_PC
    if known is not None and float(np.where(known, apart, 0.0).max(initial=0.0)) > tolerance:
        return "candidates differ"
    return None
