"""An expert that answers at once, so that a benchmark measures the way and not the model."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from preceptor_clients.contract.schemas import (
    Capabilities,
    PrefixAnswer,
    PrefixQuery,
    ServiceInfo,
    ServiceLimits,
)
from preceptor_clients.sdk.answers import Distributions, build_answer

VOCAB_SIZE = 4096
FINGERPRINT = "cd" * 32


class Uniform:
    """Uniform over its vocabulary."""

    def info(self) -> ServiceInfo:
        """What it can do."""
        return ServiceInfo(
            name="uniform",
            role="expert",
            version="1",
            capabilities=Capabilities(vocab_fingerprint=FINGERPRINT, vocab_size=VOCAB_SIZE),
            limits=ServiceLimits(max_concurrency=4),
        )

    async def logprobs(
        self, queries: Sequence[PrefixQuery], answer_keys: Sequence[str]
    ) -> list[PrefixAnswer]:
        """The same everywhere."""
        return [uniform_answer(query) for query in queries]


def uniform_answer(query: PrefixQuery) -> PrefixAnswer:
    """The same everywhere."""
    num_positions, k = query.num_positions, query.top_k
    logprob = -float(np.log(VOCAB_SIZE))
    distributions = Distributions(
        ids_PK=np.tile(np.arange(k), (num_positions, 1)),
        logprobs_PK=np.full((num_positions, k), logprob, np.float32),
        own_logprobs_P=np.full(num_positions, logprob, np.float32),
    )
    return build_answer(query, distributions, expert="uniform", expert_version="1")
