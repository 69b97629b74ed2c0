"""An expert that knows nothing: every token is as likely as any other.

    preceptor serve uniform_expert:Uniform --port 8101 --option vocab_size=261 \
        --option vocab_fingerprint=...
"""

from collections.abc import Sequence

import numpy as np

from preceptor_clients.contract.schemas import Capabilities, PrefixAnswer, PrefixQuery, ServiceInfo
from preceptor_clients.sdk.answers import Distributions, build_answer


class Uniform:
    """Answers every position with the uniform distribution, best `top_k` ids first."""

    def __init__(self, vocab_size: int, vocab_fingerprint: str) -> None:
        self._vocab_size = vocab_size
        self._info = ServiceInfo(
            name="uniform",
            role="expert",
            version="1",
            capabilities=Capabilities(vocab_size=vocab_size, vocab_fingerprint=vocab_fingerprint),
        )

    def info(self) -> ServiceInfo:
        """What the gateway is told."""
        return self._info

    async def logprobs(
        self, queries: Sequence[PrefixQuery], answer_keys: Sequence[str]
    ) -> list[PrefixAnswer]:
        """One answer per query, in order."""
        return [self._answer(query) for query in queries]

    def _answer(self, query: PrefixQuery) -> PrefixAnswer:
        P, K = query.num_positions, min(query.top_k, self._vocab_size)
        logprob = -np.log(self._vocab_size)
        distributions = Distributions(
            ids_PK=np.tile(np.arange(K, dtype=np.int32), (P, 1)),
            logprobs_PK=np.full((P, K), logprob, np.float32),
            own_logprobs_P=np.full(P, logprob, np.float32),
        )
        return build_answer(
            query,
            distributions,
            expert=self._info.name,
            expert_version=self._info.version,
            used_feedback=tuple(item.id for item in query.feedback),
        )
