"""A query, and what an honest expert answers to it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from preceptor_clients.contract.schemas import PrefixAnswer, PrefixQuery, Prompt
from preceptor_clients.sdk.answers import Distributions, build_answer

FINGERPRINT = "ab" * 32
VOCAB = 12


def query_of(response_ids: Sequence[int] = (3, 1, 4, 1, 5), **fields: object) -> PrefixQuery:
    given = {
        "prompt": Prompt(ids=np.array([1, 2], np.int32)),
        "response_ids": np.array(response_ids, np.int32),
        "vocab_fingerprint": FINGERPRINT,
        "top_k": 4,
    }
    return PrefixQuery.model_validate(given | fields)


def honest_distributions(query: PrefixQuery, *, vocab: int = VOCAB, seed: int = 0) -> Distributions:
    """Top-k of random logits over a small vocabulary, as a model would give them."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(query.num_positions, vocab)) * 3
    logprobs = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    ids = np.argsort(-logprobs, axis=1)[:, : query.top_k]
    rows = np.arange(len(logits))
    candidates = None
    if query.candidate_ids is not None:
        candidates = logprobs[rows[:, None], np.maximum(query.candidate_ids, 0)]
    return Distributions(
        ids_PK=ids,
        logprobs_PK=np.take_along_axis(logprobs, ids, 1),
        own_logprobs_P=logprobs[rows, query.response_ids[query.position_ids()]],
        candidate_logprobs_PC=candidates,
    )


def answer_of(query: PrefixQuery, *, seed: int = 0, **fields: object) -> PrefixAnswer:
    built = build_answer(
        query, honest_distributions(query, seed=seed), expert="e", expert_version="1"
    )
    return built.model_copy(update=fields)
