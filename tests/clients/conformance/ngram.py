"""A tiny language model: a bigram table and a memory of the whole context, at most 10 kB."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from preceptor_clients.contract.errors import PreceptorError, WeightsNotHere
from preceptor_clients.contract.schemas import (
    Capabilities,
    PrefixAnswer,
    PrefixQuery,
    ServiceInfo,
    ServiceLimits,
    WeightsOffer,
)
from preceptor_clients.sdk.answers import Distributions, build_answer

V = 48
FINGERPRINT = "5a" * 32


class Ngram:
    """0.6 of what follows the last token, 0.35 of what stands in the context, 0.05 of anything."""

    def __init__(self, seed: int = 0) -> None:
        self._follows_VV = np.random.default_rng(seed).dirichlet(np.full(V, 0.2), V)

    def logprobs_TV(self, context: np.ndarray, response: np.ndarray) -> np.ndarray:
        """`[T + 1, V]` entry t is about response token t; the last about the one after.

        `context` has at least one token.
        """
        ids = np.concatenate([context, response]).astype(np.int64)
        ends = np.arange(len(context), len(ids) + 1)
        counts = np.vstack([np.zeros(V), np.eye(V)[ids].cumsum(0)])[ends]
        follows = self._follows_VV[ids[ends - 1]]
        return np.log(0.6 * follows + 0.35 * counts / ends[:, None] + 0.05 / V)

    def sample(self, num: int, seed: int) -> np.ndarray:
        """Text of this model."""
        rng = np.random.default_rng(seed)
        ids = [int(rng.integers(V))]
        while len(ids) < num:
            row = np.exp(self.logprobs_TV(np.array(ids), np.array([], np.int64))[-1])
            ids.append(int(rng.choice(V, p=row / row.sum())))
        return np.array(ids, np.int32)


class NgramExpert:
    """The model behind the contract, as it should be; faults override one step each."""

    capabilities = Capabilities(
        max_top_k=32,
        candidates=True,
        vocab_fingerprint=FINGERPRINT,
        vocab_size=V,
        max_context=256,
    )

    def __init__(self, seed: int = 0) -> None:
        self.model = Ngram(seed)

    def info(self) -> ServiceInfo:
        return ServiceInfo(
            name="ngram",
            role="expert",
            version="1",
            capabilities=self.capabilities,
            limits=ServiceLimits(max_batch=8, max_concurrency=2),
        )

    async def logprobs(
        self, queries: Sequence[PrefixQuery], answer_keys: Sequence[str]
    ) -> Sequence[PrefixAnswer | PreceptorError]:
        return [self.answer(query, query.prompt.ids) for query in queries]

    def answer(self, query: PrefixQuery, context: np.ndarray) -> PrefixAnswer:
        rows_TV = self.rows_TV(context, query.response_ids)[query.position_ids()]
        return self.built(query, rows_TV)

    def rows_TV(self, context: np.ndarray, response: np.ndarray) -> np.ndarray:
        return self.model.logprobs_TV(context, response)[:-1]

    def built(self, query: PrefixQuery, rows_PV: np.ndarray, **fields) -> PrefixAnswer:
        K = min(query.top_k, V)
        ids_PK = np.argsort(-rows_PV, axis=1, kind="stable")[:, :K]
        own = query.response_ids[query.position_ids()].astype(np.int64)
        candidates = query.candidate_ids
        distributions = Distributions(
            ids_PK=ids_PK.astype(np.int32),
            logprobs_PK=self.kept(np.take_along_axis(rows_PV, ids_PK, 1)),
            own_logprobs_P=self.own(np.take_along_axis(rows_PV, own[:, None], 1)[:, 0]),
            candidate_logprobs_PC=None
            if candidates is None
            else np.take_along_axis(rows_PV, np.maximum(candidates, 0).astype(np.int64), 1),
        )
        return build_answer(
            query, distributions, expert="ngram", expert_version="1", exact=True, **fields
        )

    def kept(self, logprobs_PK: np.ndarray) -> np.ndarray:
        return logprobs_PK

    def own(self, logprobs_P: np.ndarray) -> np.ndarray:
        return logprobs_P


class VersionedExpert(NgramExpert):
    """One model per version of the weights."""

    capabilities = NgramExpert.capabilities.model_copy(update={"weights": True})

    def __init__(self) -> None:
        super().__init__()
        self.models: dict[str, Ngram] = {}

    async def offer_weights(self, offer: WeightsOffer) -> None:
        for manifest in offer.manifests:
            self.models[manifest.version] = Ngram(int(manifest.version.rpartition("/")[2]))

    async def logprobs(
        self, queries: Sequence[PrefixQuery], answer_keys: Sequence[str]
    ) -> Sequence[PrefixAnswer | PreceptorError]:
        return [self.versioned(query) for query in queries]

    def versioned(self, query: PrefixQuery) -> PrefixAnswer | PreceptorError:
        version = query.weights.version if query.weights else None
        if version not in self.models:
            return WeightsNotHere(f"{version} was not offered")
        rows_TV = self.chosen(version).logprobs_TV(query.prompt.ids, query.response_ids)
        rows_PV = rows_TV[:-1][query.position_ids()]
        return self.built(query, rows_PV, weights_before=version, weights_after=version)

    def chosen(self, version: str) -> Ngram:
        return self.models[version]
