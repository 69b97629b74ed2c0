"""An expert for tests, run as a real process: uniform over its vocabulary, in the mood it is told.

The first message of a query says the mood; every call leaves a line in the log file: the moods of
its queries, space-separated, and one more line `aborted ...` if the call was broken off. A `gated`
query waits for a file named `gate` beside the log.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from preceptor_clients.contract.errors import Invalid, WeightsNotHere
from preceptor_clients.contract.schemas import (
    Capabilities,
    PrefixAnswer,
    PrefixQuery,
    ServiceInfo,
    ServiceLimits,
    WeightsOffer,
)
from preceptor_clients.http.gateway import GatewayClient
from preceptor_clients.sdk.answers import Distributions, build_answer
from preceptor_clients.sdk.service import AnswerLater, PrefixReply

VOCAB_SIZE = 100
FINGERPRINT = "ab" * 32


class Moody:
    def __init__(
        self,
        log: str,
        name: str = "moody",
        delay_s: float = 0.0,
        max_batch: int = 16,
        max_concurrency: int = 1,
        weights: bool = False,
        late_url: str = "",
        late_key_file: str = "",
    ) -> None:
        self._log = Path(log)
        self._name = name
        self._delay_s = delay_s
        self._limits = ServiceLimits(max_batch=max_batch, max_concurrency=max_concurrency)
        self._weights = weights
        self._known: set[str] = set()
        self._late = (late_url, late_key_file)
        self._later: set[asyncio.Task[None]] = set()

    def info(self) -> ServiceInfo:
        return ServiceInfo(
            name=self._name,
            role="expert",
            version="1",
            capabilities=Capabilities(
                vocab_fingerprint=FINGERPRINT,
                vocab_size=VOCAB_SIZE,
                max_top_k=8,
                late_s=60.0,
                weights=self._weights,
            ),
            limits=self._limits,
        )

    async def offer_weights(self, offer: WeightsOffer) -> None:
        self._known |= {manifest.version for manifest in offer.manifests}
        self._note("offered " + " ".join(manifest.version for manifest in offer.manifests))

    async def logprobs(
        self, queries: Sequence[PrefixQuery], answer_keys: Sequence[str]
    ) -> list[PrefixReply]:
        moods = " ".join(mood(query) for query in queries)
        self._note(moods)
        try:
            await asyncio.sleep(self._delay_s)
            if "hang" in moods:
                await asyncio.sleep(3600)
            while "gated" in moods and not self._log.with_name("gate").exists():
                await asyncio.sleep(0.02)
        except asyncio.CancelledError:
            self._note(f"aborted {moods}")
            raise
        if "die" in moods:
            os._exit(1)
        if "broken" in moods:
            raise RuntimeError("broken")
        return [self._reply(q, k) for q, k in zip(queries, answer_keys, strict=True)]

    def _reply(self, query: PrefixQuery, answer_key: str) -> PrefixReply:
        wanted = query.weights
        if self._weights and (wanted is None or wanted.version not in self._known):
            return WeightsNotHere("offer them first")
        if "refuse" in mood(query):
            return Invalid("is not for me", field="prompt")
        if "later" in mood(query):
            task = asyncio.ensure_future(self._answer_later(query, answer_key))
            self._later.add(task)
            return AnswerLater()
        answer = self._uniform(query)
        if "nonsense" in mood(query):
            return answer.model_copy(update={"token_ids_P": answer.token_ids_P + 1})
        return answer

    async def _answer_later(self, query: PrefixQuery, answer_key: str) -> None:
        await asyncio.sleep(0.5)
        url, key_file = self._late
        async with GatewayClient(url, Path(key_file).read_text().strip()) as gateway:
            await gateway.call("PUT", f"/v1/answers/{answer_key}", body=self._uniform(query))

    def _uniform(self, query: PrefixQuery) -> PrefixAnswer:
        num_positions, k = query.num_positions, query.top_k
        logprob = -float(np.log(VOCAB_SIZE))
        version = None if query.weights is None else query.weights.version
        return build_answer(
            query,
            Distributions(
                ids_PK=np.tile(np.arange(k), (num_positions, 1)),
                logprobs_PK=np.full((num_positions, k), logprob),
                own_logprobs_P=np.full(num_positions, logprob),
            ),
            expert=self._name,
            expert_version="1",
            weights_before=version,
            weights_after=version,
        )

    def _note(self, line: str) -> None:
        with self._log.open("a") as file:
            file.write(line + "\n")


def mood(query: PrefixQuery) -> str:
    messages = query.prompt.messages
    return messages[0].content if messages else "self-test"  # the registry asks with ids alone
