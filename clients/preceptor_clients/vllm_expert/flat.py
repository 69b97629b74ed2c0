"""vLLM's flat log-probs as arrays.

With `flat_logprobs` vLLM keeps the scores of a whole sequence in a few flat lists instead of one
object per entry (`vllm/logprobs.py`, RFC vllm#28226). Each position has its own token, then the
best k in descending order, so the rows of the response form a matrix of width k + 1.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from preceptor_clients.contract.arrays import LEAST_LOGPROB, MISSING
from preceptor_clients.contract.errors import ServiceFailed
from preceptor_clients.contract.schemas import PrefixQuery
from preceptor_clients.sdk.answers import Distributions


class FlatLogprobs(Protocol):
    """The fields of `vllm.logprobs.FlatLogprobs` that are read."""

    start_indices: list[int]
    end_indices: list[int]
    token_ids: list[int]
    logprobs: list[float]


def distributions_of(
    flat: FlatLogprobs, query: PrefixQuery, *, num_context: int, vocab_size: int
) -> Distributions:
    """vLLM's distributions at the positions of `query`.

    Args:
        flat: Scores of context and response; position i is about token i, given those before it.
        query: The query.
        num_context: Tokens before the response.
        vocab_size: Ids from here on are padded rows of the head, not tokens.

    Returns:
        The distributions. A row has fewer entries than requested where padded rows or impossible
        tokens were among them; an impossible own token has no log-prob.

    Raises:
        ServiceFailed: A position is missing, is about another token, or has no log-prob of its own
            token. vLLM has had such faults, and their results look like answers.
    """
    num_tokens = len(query.response_ids)
    if len(flat.start_indices) != num_context + num_tokens:
        raise ServiceFailed(
            f"vLLM scored {len(flat.start_indices)} positions of {num_context + num_tokens}"
        )
    starts = np.array(flat.start_indices[num_context:])
    widths = np.array(flat.end_indices[num_context:]) - starts
    width = int(widths[0])
    if width < 2 or (widths != width).any():
        raise ServiceFailed(f"vLLM returned {widths.min()} to {widths.max()} entries per position")
    first, last = int(starts[0]), int(starts[-1]) + width
    rows = query.position_ids()
    ids = np.array(flat.token_ids[first:last], np.int32).reshape(num_tokens, width)[rows]
    logprobs = np.array(flat.logprobs[first:last], np.float32).reshape(num_tokens, width)[rows]
    if not np.array_equal(ids[:, 0], query.response_ids[rows]):
        raise ServiceFailed("vLLM scored other tokens than the response's")
    if np.isnan(logprobs[:, 0]).any():
        raise ServiceFailed("vLLM returned no finite log-prob of a token of the response")
    return _compacted(ids[:, 1:], logprobs[:, 1:], logprobs[:, 0], query.top_k, vocab_size)


def spread_candidates(query: PrefixQuery) -> np.ndarray | None:
    """`[T, C]` candidates at every position of the response, -1 where there are none."""
    if query.candidate_ids is None or query.candidate_ids.shape[1] == 0:
        return None
    ids_TC = np.full((len(query.response_ids), query.candidate_ids.shape[1]), -1, np.int32)
    ids_TC[query.position_ids()] = query.candidate_ids
    return ids_TC


def candidates_of(scores_TC: Any, query: PrefixQuery) -> np.ndarray | None:
    """`[P, C]` log-probs of the query's candidates, `MISSING` in padded cells.

    Raises:
        ServiceFailed: A row is missing.
    """
    wanted_TC = spread_candidates(query)
    if wanted_TC is None or query.candidate_ids is None:
        return None
    found_TC = np.asarray(scores_TC, np.float32)
    if found_TC.shape != wanted_TC.shape:
        raise ServiceFailed(
            f"vLLM scored candidates of shape {found_TC.shape}, expected {wanted_TC.shape}"
        )
    found_PC = found_TC[query.position_ids()]
    known_PC = (query.candidate_ids >= 0) & (found_PC > LEAST_LOGPROB)
    return np.where(known_PC, np.minimum(found_PC, 0.0), MISSING).astype(np.float32)


def _compacted(
    ids_PK: np.ndarray,
    logprobs_PK: np.ndarray,
    own_P: np.ndarray,
    top_k: int,
    vocab_size: int,
) -> Distributions:
    known = (ids_PK < vocab_size) & (logprobs_PK > LEAST_LOGPROB)
    order = np.argsort(~known, axis=1, kind="stable")[:, :top_k]
    known = np.take_along_axis(known, order, 1)
    ids = np.take_along_axis(ids_PK, order, 1)
    logprobs = np.take_along_axis(logprobs_PK, order, 1)
    return Distributions(
        ids_PK=np.where(known, ids, -1),
        logprobs_PK=np.where(known, np.minimum(logprobs, 0.0), 0.0).astype(np.float32),
        own_logprobs_P=own_P,
    )
