"""Converts one position of a server's reply to a row of the contract.

Lists are cut, never repaired: from the first entry on that is not an id of the student, the mass
belongs to the tail. Values that cannot be a distribution are refused, because normalising them
would hide a fault of the server.
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
"""Allowed mass above 1, since servers round log-probs of bf16 heads; more is a fault."""


class Row(NamedTuple):
    """The distribution over one token of the sequence."""

    own: float | None
    """Log-prob of the own token."""
    entries: tuple[tuple[int, float], ...]
    """Ids and log-probs, best first."""
    num_best: int
    """Number of best entries from the server, without the own token where the server may have added
    it."""


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

    Minus infinity, and the values at or below `LEAST_LOGPROB` that servers write for it, are not
    log-probs: such an entry is left out, and the log-prob of such a token is not known.

    Args:
        position: Index in the sequence, for error messages.
        own_id: The sequence's own id at this position.
        own: Its log-prob, where the server returns it separately; NaN where it does not.
        given: Log-probs by id, NaN where not known; an id that could not be read is negative.
        vocab_size: Ids from here on are padding of the server's head.
        own_is_added: Whether the server always adds the own token to the best entries.
        own_rank: Rank of the own token, where the server returns it; 1 is the best.

    Raises:
        ServiceFailed: the log-probs are not a distribution.
    """
    likely = {i: x for i, x in given.items() if x > LEAST_LOGPROB}
    stated = given.get(own_id, math.nan) if own is None else own
    _check_distribution(position, [*likely.values()], stated)
    if likely and stated > min(likely.values()):
        likely[own_id] = stated
    best = sorted(likely.items(), key=lambda entry: -entry[1])
    if own is None and math.isnan(stated):
        best = []  # the missing entry may be the best one
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
            f"position {position}: the entries' probabilities add up to {mass:.4f}, above 1; "
            "they are not normalised, or unknown ones were filled in"
        )


def as_lists(
    entries: Mapping[int, Sequence[tuple[int, float]]], query: PrefixQuery
) -> Distributions:
    """Lists of entries as arrays; the own token has its log-prob in the list.

    Args:
        entries: Entries by row of the query, best first; missing rows are empty.
        query: The query.
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
    """Rows as arrays, and the mask `[P]` of rows with entries.

    Args:
        rows: One per response token.
        at: `[P]` the queried positions.
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
