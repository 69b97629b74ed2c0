"""A service that draws responses: asked through the SDK and its client."""

from __future__ import annotations

from collections.abc import Sequence

import httpx
import numpy as np

from preceptor_clients.contract.errors import ContextTooLong, PreceptorError
from preceptor_clients.contract.generation import (
    GenerateAnswer,
    GenerateCall,
    Generated,
    GenerateQuery,
    Sampling,
)
from preceptor_clients.contract.schemas import Capabilities, Prompt, ServiceInfo
from preceptor_clients.http.connection import NO_RETRY
from preceptor_clients.http.service import ServiceClient
from preceptor_clients.sdk.service import service_app

VOCAB = "ab" * 32


class Counting:
    """Counts on from the prompt's last id; refuses to count far."""

    def info(self) -> ServiceInfo:
        capabilities = Capabilities(vocab_fingerprint=VOCAB, vocab_size=50)
        return ServiceInfo(name="counting", role="expert", version="1", capabilities=capabilities)

    async def logprobs(self, queries: object, answer_keys: object) -> Sequence[PreceptorError]:
        raise AssertionError("nobody asks for scores here")

    async def generate(
        self, queries: Sequence[GenerateQuery]
    ) -> Sequence[GenerateAnswer | PreceptorError]:
        return [self._one(query) for query in queries]

    def _one(self, query: GenerateQuery) -> GenerateAnswer | PreceptorError:
        length = query.sampling.max_new_tokens
        if length > 8:
            return ContextTooLong("8 are the most", field="sampling.max_new_tokens")
        assert query.prompt.ids is not None
        ids = np.arange(length, dtype=np.int32) + query.prompt.ids[-1] + 1
        one = Generated(
            response_ids=ids,
            logprobs_T=np.full(length, -0.5, np.float32),
            finish_reason="length",
        )
        return GenerateAnswer(
            responses=(one,) * query.count,
            vocab_fingerprint=VOCAB,
            sampler="counting",
            sampler_version="1",
        )


def query(**fields: object) -> GenerateQuery:
    given = {
        "prompt": Prompt(ids=np.array([4, 5], np.int32)),
        "sampling": Sampling(max_new_tokens=3),
        "vocab_fingerprint": VOCAB,
    }
    return GenerateQuery.model_validate(given | fields)


async def test_responses_come_in_order_and_each_query_has_its_own_problem() -> None:
    transport = httpx.ASGITransport(service_app(Counting()))
    queries = (
        query(count=2),
        query(sampling=Sampling(max_new_tokens=9)),
        query(vocab_fingerprint="cd" * 32),
        query(prompt=Prompt(ids=np.array([50], np.int32))),
    )

    async with ServiceClient("http://s", None, transport=transport, retry=NO_RETRY) as client:
        reply = await client.generate(GenerateCall(queries=queries), 10)

    drawn, *refused = reply.results
    assert drawn.answer is not None
    assert [one.response_ids.tolist() for one in drawn.answer.responses] == [[6, 7, 8]] * 2
    assert drawn.answer.responses[0].logprobs_T.dtype == np.float32
    statuses = [(r.problem.status, r.problem.code) for r in refused if r.problem]
    assert statuses == [
        (422, "context-too-long"),
        (409, "vocabulary-mismatch"),
        (422, "invalid"),
    ]
