"""One sequence for the model, and the positions to score.

Dimensions: L tokens of the model's input, P queried positions, C candidate ids.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from preceptor_clients.contract.schemas import PrefixQuery


@dataclass(frozen=True, kw_only=True)
class Prefill:
    """Context and response as ids, and the positions to score.

    `positions_P` are ascending indices into the response; `candidate_ids_PC` has -1 in empty cells.
    """

    context_ids: np.ndarray
    response_ids: np.ndarray
    positions_P: np.ndarray
    top_k: int
    candidate_ids_PC: np.ndarray | None = None

    @property
    def num_tokens(self) -> int:
        """Number of input tokens; the last response token is not among them."""
        return len(self.context_ids) + len(self.response_ids) - 1

    @property
    def num_candidates(self) -> int:
        """C."""
        return 0 if self.candidate_ids_PC is None else self.candidate_ids_PC.shape[1]

    def tokens(self) -> np.ndarray:
        """`[L]` the model's input tokens."""
        # Without the last token: no entry depends on it.
        return np.concatenate([self.context_ids, self.response_ids[:-1]])

    def places(self) -> np.ndarray:
        """`[P]` places in `tokens` of the hidden states that predict the queried positions."""
        # One place earlier, by the index convention: the last token of the context predicts
        # position 0.
        return len(self.context_ids) - 1 + self.positions_P


def prefill_of(query: PrefixQuery, context_ids: np.ndarray) -> Prefill:
    """The prefill of `query` in the context that the expert built."""
    return Prefill(
        context_ids=context_ids,
        response_ids=query.response_ids,
        positions_P=query.position_ids(),
        top_k=query.top_k,
        candidate_ids_PC=query.candidate_ids,
    )


def num_entries(query: PrefixQuery) -> int:
    """Number of log-probs in its answer."""
    num_candidates = 0 if query.candidate_ids is None else query.candidate_ids.shape[1]
    return query.num_positions * (query.top_k + num_candidates)
