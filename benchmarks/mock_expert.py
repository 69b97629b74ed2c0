"""An expert that answers at once with realistic numbers, so that a benchmark measures the way.

The entries of its rows are drawn once: different ids in each row, log-probs of a peaked
distribution. An answer takes as many rows as it has positions, so that it costs little more than
its rendering.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np

from preceptor_clients.contract import grid
from preceptor_clients.contract.schemas import (
    Capabilities,
    Message,
    PrefixAnswer,
    PrefixQuery,
    Prompt,
    ServiceInfo,
    ServiceLimits,
)
from preceptor_clients.sdk.answers import Distributions, build_answer

VOCAB_SIZE = 151_936
FINGERPRINT = "ab" * 32
MOST_POSITIONS = 1024


def make_query(number: int, num_tokens: int = 4, top_k: int = 4) -> PrefixQuery:
    """One question; different numbers are different questions."""
    ids = ((np.arange(num_tokens) * 7919 + number) % VOCAB_SIZE).astype(np.int32)
    return PrefixQuery(
        prompt=Prompt(messages=(Message(role="user", content=str(number)),)),
        response_ids=ids,
        vocab_fingerprint=FINGERPRINT,
        top_k=top_k,
    )


@cache
def _drawn(top_k: int) -> PrefixAnswer:
    """An answer of all rows."""
    rng = np.random.default_rng(0)
    ids_PK = np.stack([rng.choice(VOCAB_SIZE, top_k, replace=False) for _ in range(MOST_POSITIONS)])
    scores_PK = -np.sort(-rng.gumbel(size=(MOST_POSITIONS, top_k)) * 2, axis=1)
    norm_P1 = np.log(np.exp(scores_PK).sum(1, keepdims=True)) + 5e-4
    distributions = Distributions(
        ids_PK=ids_PK,
        logprobs_PK=(scores_PK - norm_P1).astype(np.float32),
        own_logprobs_P=None,
    )
    query = make_query(0, MOST_POSITIONS, top_k)
    return build_answer(query, distributions, expert="mock", expert_version="1")


@cache
def _rows(top_k: int, num_positions: int) -> dict[str, np.ndarray]:
    """The first rows of them, as an expert that builds its answer has them."""
    whole = _drawn(top_k)
    names = ("mask_P", "num_entries_P", "ids_PK", "tail_P", "own_logprobs_P", "own_mask_P")
    rows = {name: getattr(whole, name)[:num_positions] for name in names}
    codes = grid.codes(whole.logprobs_PK[:num_positions])
    # An older checkout, measured by `--against`, does not remember codes.
    values = getattr(grid, "read_only_values", grid.values)
    return {**rows, "logprobs_PK": values(codes)}


def mock_answer(query: PrefixQuery) -> PrefixAnswer:
    """An answer that passes the check of answers."""
    return PrefixAnswer(
        kind="topk",
        token_ids_P=query.response_ids,
        vocab_fingerprint=query.vocab_fingerprint,
        expert="mock",
        expert_version="1",
        **_rows(query.top_k, query.num_positions),
    )


class Mock:
    """The service."""

    def info(self) -> ServiceInfo:
        """What it can do."""
        return ServiceInfo(
            name="mock",
            role="expert",
            version="1",
            capabilities=Capabilities(vocab_fingerprint=FINGERPRINT, vocab_size=VOCAB_SIZE),
            limits=ServiceLimits(max_concurrency=4),
        )

    async def logprobs(
        self, queries: Sequence[PrefixQuery], answer_keys: Sequence[str]
    ) -> list[PrefixAnswer]:
        """At once."""
        return [mock_answer(query) for query in queries]
