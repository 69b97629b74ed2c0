"""A sampler in one file: responses come from a service that has `/v1/generate`.

    RunConfig(..., sampler=lambda policy: GenerateSampler(client, policy.vocab_fingerprint))

The service must have the version that is asked for; `docs/how-to/vllm.md` says how one takes new
weights. Left out: forced prefixes, which the contract of `/v1/generate` does not have.
"""

import numpy as np
import torch

from preceptor_clients.contract.errors import from_problem
from preceptor_clients.contract.generation import GenerateCall, GenerateQuery, Sampling
from preceptor_clients.contract.schemas import Prompt, WantedWeights
from preceptor_clients.http.service import ServiceClient
from preceptor_trainer.sampling.sampler import Generation, Published, SampleRequest

TIMEOUT_S = 600.0


class GenerateSampler:
    """Asks the service for every prompt of a request in one call."""

    def __init__(self, client: ServiceClient, vocab_fingerprint: str) -> None:
        self._client = client
        self._vocab_fingerprint = vocab_fingerprint
        self.version = ""

    async def load(self, published: Published) -> None:
        """Names the version; the service fetches its tensors by that name."""
        self.version = published.version

    async def sample(self, request: SampleRequest) -> list[list[Generation]]:
        """One list of responses per prompt."""
        if request.forced_prefixes is not None:
            raise ValueError("forced_prefixes: this sampler cannot begin a response")
        queries = tuple(self._query(ids, request) for ids in request.prompts)
        reply = await self._client.generate(GenerateCall(queries=queries), TIMEOUT_S)
        groups: list[list[Generation]] = []
        for result in reply.results:
            if result.answer is None:
                assert result.problem is not None, "a result is an answer or a problem"
                raise from_problem(result.problem)
            groups.append(
                [
                    Generation(
                        response_ids=np.asarray(r.response_ids, np.int32),
                        logprobs=np.asarray(r.logprobs_T, np.float32),
                        finish_reason=r.finish_reason,
                    )
                    for r in result.answer.responses
                ]
            )
        return groups

    def _query(self, ids: object, request: SampleRequest) -> GenerateQuery:
        params = request.params
        # The run's generator decides, so that the same seed asks for the same draws.
        seed = int(torch.randint(2**31, (1,), generator=request.generator))
        return GenerateQuery(
            prompt=Prompt(ids=np.asarray(ids, np.int32)),
            sampling=Sampling(
                temperature=params.temperature,
                top_p=params.top_p,
                top_k=params.top_k,
                max_new_tokens=params.max_new_tokens,
                seed=seed,
            ),
            count=request.num_samples,
            vocab_fingerprint=self._vocab_fingerprint,
            weights=WantedWeights(mode="exact", version=self.version),
        )
