"""Experts with one fault each; everything else is right, and most pass the answer check."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from ngram import Ngram, NgramExpert, V, VersionedExpert

from preceptor_clients.contract.schemas import PrefixAnswer, PrefixQuery
from preceptor_clients.sdk.answers import Distributions, build_answer


def log_softmax(logits: np.ndarray) -> np.ndarray:
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


class EarlyByOne(NgramExpert):
    """Takes the engine's output after token t for entry t."""

    def rows_TV(self, context, response):
        return self.model.logprobs_TV(context, response)[1:]


class LateByOne(NgramExpert):
    """Leaves the last token before each position out of its context."""

    def rows_TV(self, context, response):
        return self.model.logprobs_TV(context[:-1], np.append(context[-1:], response))[:-2]


class ShiftedOwn(NgramExpert):
    """The entries are right, the student's own log-prob is that of the next token."""

    def own(self, logprobs_P):
        return np.roll(logprobs_P, -1)


class ZeroOwn(NgramExpert):
    """A log-prob that is not known is sent as 0.0."""

    def own(self, logprobs_P):
        return np.zeros_like(logprobs_P)


class ZeroRows(NgramExpert):
    """Each row is one entry, the token that came, with log-prob 0.0: the door lets it pass."""

    def built(self, query, rows_PV, **fields):
        own = query.response_ids[query.position_ids()]
        distributions = Distributions(
            ids_PK=own[:, None],
            logprobs_PK=np.zeros((len(own), 1)),
            own_logprobs_P=np.zeros(len(own)),
            candidate_logprobs_PC=None
            if query.candidate_ids is None
            else np.zeros(query.candidate_ids.shape),
        )
        return build_answer(query, distributions, expert="ngram", expert_version="1")


class UniformAnswers(NgramExpert):
    def rows_TV(self, context, response):
        return np.full((len(response), V), -np.log(V))


class Unconditional(NgramExpert):
    """One good distribution, whatever stands before."""

    def rows_TV(self, context, response):
        return np.tile(self.model.logprobs_TV(np.zeros(1, int), response[:0]), (len(response), 1))


class TemperatureIgnored(NgramExpert):
    """The engine's sampler runs at 1.6, and its log-probs with it."""

    def rows_TV(self, context, response):
        return log_softmax(super().rows_TV(context, response) / 1.6)


class TemperatureTwice(NgramExpert):
    """Sharpened in the engine and once more after it."""

    def rows_TV(self, context, response):
        once = log_softmax(super().rows_TV(context, response) / 0.7)
        return log_softmax(once / 0.7)


class TemperatureSaid(NgramExpert):
    """Says itself that it answers at another temperature."""

    def built(self, query, rows_PV, **fields):
        return super().built(query, rows_PV, temperature=0.7, **fields)


class CutContext(NgramExpert):
    """Sees the last 200 tokens of the 256 that it declares."""

    def answer(self, query: PrefixQuery, context: np.ndarray) -> PrefixAnswer:
        return super().answer(query, context[-200:])


class NormalisedOverTopK(NgramExpert):
    """The entries kept add up to 1, whatever was left out; the door lets it pass."""

    def built(self, query, rows_PV, **fields):
        kept = np.argsort(-rows_PV, axis=1, kind="stable")[:, : query.top_k]
        only = np.full_like(rows_PV, -30.0)
        np.put_along_axis(only, kept, np.take_along_axis(rows_PV, kept, 1), 1)
        return super().built(query, log_softmax(only), **fields)


class RawLogits(NgramExpert):
    """Logits less their highest, never normalised."""

    def kept(self, logprobs_PK):
        return logprobs_PK - logprobs_PK.max(1, keepdims=True)


class OtherVocabulary(NgramExpert):
    """Declares the student's fingerprint, but its ids mean something else."""

    def rows_TV(self, context, response):
        order = np.random.default_rng(9).permutation(V)
        return super().rows_TV(order[context], order[response])[:, order]


class SwappedInBatch(NgramExpert):
    """Sorted by length for the model, and never put back."""

    async def logprobs(self, queries: Sequence[PrefixQuery], answer_keys: Sequence[str]):
        contexts = [q.prompt.ids for q in sorted(queries, key=lambda q: -len(q.prompt.ids))]
        return [self.answer(q, c) for q, c in zip(queries, contexts, strict=True)]


class PaddedInBatch(NgramExpert):
    """Pads short prompts to the longest and attends to the padding."""

    async def logprobs(self, queries: Sequence[PrefixQuery], answer_keys: Sequence[str]):
        longest = max(len(q.prompt.ids) for q in queries)
        return [
            self.answer(q, np.pad(q.prompt.ids, (longest - len(q.prompt.ids), 0))) for q in queries
        ]


class Wandering(NgramExpert):
    """Dropout was left on."""

    def rows_TV(self, context, response):
        rows = super().rows_TV(context, response)
        return log_softmax(rows + np.random.default_rng().normal(0, 0.5, rows.shape))


class AllPositions(NgramExpert):
    """Counts its rows from the first position, whichever were asked."""

    def answer(self, query: PrefixQuery, context: np.ndarray) -> PrefixAnswer:
        rows = self.rows_TV(context, query.response_ids)[: query.num_positions]
        return self.built(query, rows)


class CandidatesByRank(NgramExpert):
    """Gives candidates the log-probs of its own best ids."""

    def built(self, query, rows_PV, **fields):
        answer = super().built(query, rows_PV, **fields)
        if query.candidate_ids is None or query.candidate_ids.shape[1] > query.top_k:
            return answer
        best = answer.logprobs_PK[:, : query.candidate_ids.shape[1]]
        return answer.model_copy(update={"candidate_logprobs_PC": best})


class StaleWeights(VersionedExpert):
    """Names the version wanted, computes with the first it was given."""

    def chosen(self, version: str) -> Ngram:
        return next(iter(self.models.values()))
