"""One position of somebody else's answer, made into a row that means what our rows mean.

Lists are cut, never repaired: from the first entry that is none of the student's ids on, the mass
belongs to the tail. What no distribution can be is refused, because normalising it would hide that
the server is wrong.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

import numpy as np

from preceptor_clients.contract.arrays import LEAST_LOGPROB, MISSING
from preceptor_clients.contract.errors import ServiceFailed
from preceptor_clients.contract.schemas import PrefixQuery
from preceptor_clients.sdk.answers import Distributions

_POSITIVE_TOLERANCE: Final = 1e-4
_MASS_TOLERANCE: Final = 5e-3
"""Servers round log-probs of bf16 heads; more mass than this is no rounding."""


class Row(NamedTuple):
    """The distribution over one token of the sequence."""

    own: float | None
    """Log-prob of the token that stands there."""
    entries: tuple[tuple[int, float], ...]
    """Ids and log-probs, best first."""
    num_best: int
    """How many best ones the server gave; the token that came is none of them where the server may
    have added it."""


def make_row(
    position: int,
    own_id: int,
    own: float | None,
    given: Mapping[int, float],
    vocab_size: int,
    *,
    own_is_added: bool = False,
    own_rank: int | None = None,
) -> Row:
    """The row of one position.

    Minus infinity and what servers write for it (`LEAST_LOGPROB` and below) is no log-prob: such an
    entry is left out, and of such a token nothing is known.

    Args:
        position: Where in the sequence, for errors.
        own_id: The id that stands there.
        own: Its log-prob, where the server gives it apart; NaN where it gives none.
        given: Log-probs by id, NaN where not known; an id that could not be read is negative.
        vocab_size: Ids beyond it are padding of the server's head.
        own_is_added: Whether the server puts the token that came among the best, whatever it is.
        own_rank: Its rank, where the server says that; 1 is the best.

    Raises:
        ServiceFailed: the log-probs are of no distribution.
    """
    likely = {i: x for i, x in given.items() if x > LEAST_LOGPROB}
    stated = given.get(own_id, math.nan) if own is None else own
    _check_distribution(position, [*likely.values()], stated)
    if likely and stated > min(likely.values()):
        likely[own_id] = stated
    best = sorted(likely.items(), key=lambda entry: -entry[1])
    if own is None and math.isnan(stated):
        best = []  # the entry that is missing may be the best one
    place = next((n for n, (i, _) in enumerate(best, start=1) if i == own_id), 0)
    if place and own_rank is not None and own_rank > place:
        del best[place - 1]
    readable = next((n for n, (i, _) in enumerate(best) if not 0 <= i < vocab_size), len(best))
    added = own_is_added and own_id in given and not given[own_id] > min(given.values())
    return Row(
        own=stated if stated > LEAST_LOGPROB else None,
        entries=tuple((i, min(x, 0.0)) for i, x in best[:readable]),
        num_best=len(given) - added,
    )


def _check_distribution(position: int, logprobs: Sequence[float], own: float) -> None:
    highest = max([*logprobs, -math.inf if math.isnan(own) else own], default=-math.inf)
    if highest > _POSITIVE_TOLERANCE:
        raise ServiceFailed(f"position {position}: a log-prob of {highest:.4f} is above 0")
    mass = math.fsum(math.exp(x) for x in logprobs)
    if mass > 1 + _MASS_TOLERANCE:
        raise ServiceFailed(
            f"position {position}: the entries' probabilities add up to {mass:.4f}; they are not "
            "normalised, or missing ones were filled in"
        )


def as_lists(
    entries: Mapping[int, Sequence[tuple[int, float]]], query: PrefixQuery
) -> Distributions:
    """Lists of entries as arrays; a student's token has the log-prob that its list gives it.

    Args:
        entries: By row of the query, best first; rows that are not there are empty.
        query: What was asked.
    """
    P = query.num_positions
    K = max([1, *(min(query.top_k, len(row)) for row in entries.values())])
    ids_PK = np.full((P, K), -1, np.int32)
    logprobs_PK = np.full((P, K), MISSING, np.float32)
    own_P = np.full(P, MISSING, np.float32)
    own_ids = query.response_ids[query.position_ids()]
    for p, row in entries.items():
        kept = row[:K]
        ids_PK[p, : len(kept)] = [i for i, _ in kept]
        logprobs_PK[p, : len(kept)] = [x for _, x in kept]
        own_P[p] = dict(row).get(int(own_ids[p]), MISSING)
    return Distributions(ids_PK=ids_PK, logprobs_PK=logprobs_PK, own_logprobs_P=own_P)


def distributions(
    rows: Sequence[Row], at: np.ndarray, top_k: int
) -> tuple[Distributions, np.ndarray]:
    """Rows as arrays, and `[P]` which of them say anything.

    Args:
        rows: One per response token.
        at: `[P]` the positions asked.
        top_k: Entries kept per position.
    """
    chosen = [rows[int(t)] for t in at]
    K = max([1, *(min(top_k, len(row.entries)) for row in chosen)])
    ids_PK = np.full((len(chosen), K), -1, np.int32)
    logprobs_PK = np.full((len(chosen), K), MISSING, np.float32)
    own_P = np.full(len(chosen), MISSING, np.float32)
    mask_P = np.zeros(len(chosen), np.bool_)
    for p, row in enumerate(chosen):
        kept = row.entries[:top_k]
        mask_P[p] = bool(kept)
        ids_PK[p, : len(kept)] = [i for i, _ in kept]
        logprobs_PK[p, : len(kept)] = [x for _, x in kept]
        if row.own is not None:
            own_P[p] = row.own
    return Distributions(ids_PK=ids_PK, logprobs_PK=logprobs_PK, own_logprobs_P=own_P), mask_P
