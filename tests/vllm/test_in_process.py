"""vLLM behind the SDK is an expert and a sampler, in an environment that has no more of ours."""

from __future__ import annotations

import subprocess

import numpy as np
import pytest
import torch

from preceptor_clients.contract.generation import (
    GenerateAnswer,
    GenerateCall,
    GenerateQuery,
    Sampling,
)
from preceptor_clients.contract.schemas import (
    LogprobsCall,
    PrefixAnswer,
    PrefixQuery,
    Prompt,
    WantedWeights,
)
from preceptor_clients.http.service import ServiceClient

from .conftest import KEY, VOCAB_SIZE

pytestmark = [pytest.mark.vllm, pytest.mark.e2e]

TOLERANCE = 0.02
PROMPT = [*b"[1,2]->[2]"]


@pytest.fixture
async def client(in_process):
    async with ServiceClient(in_process, KEY) as client:
        yield client


def score_query(policy, response, **fields) -> PrefixQuery:
    return PrefixQuery(
        prompt=Prompt(ids=np.array(PROMPT, np.int32)),
        response_ids=np.array(response, np.int32),
        vocab_fingerprint=policy.vocab_fingerprint,
        **fields,
    )


def draw_query(policy, *, version: str | None = None, **sampling) -> GenerateQuery:
    return GenerateQuery(
        prompt=Prompt(ids=np.array(PROMPT, np.int32)),
        sampling=Sampling(**({"max_new_tokens": 12, "seed": 0} | sampling)),
        count=4,
        vocab_fingerprint=policy.vocab_fingerprint,
        weights=None if version is None else WantedWeights(mode="exact", version=version),
    )


async def drawn(client, query) -> GenerateAnswer:
    [result] = (await client.generate(GenerateCall(queries=(query,)), 300)).results
    assert result.answer is not None, result.problem
    return result.answer


async def scored(client, query) -> PrefixAnswer:
    [result] = (await client.logprobs(LogprobsCall(queries=(query,)), 300)).results
    assert result.answer is not None, result.problem
    return result.answer


def test_the_environment_has_the_light_sdk_alone(vllm_python):
    code = "import importlib.util as u; print([u.find_spec(n) for n in ('redis', 'sqlalchemy')])"

    found = subprocess.run([vllm_python, "-c", code], capture_output=True, text=True, check=True)

    assert found.stdout.strip() == "[None, None]"


def test_the_in_process_engine_passes_expert_check(in_process, files, check):
    verdicts = check(
        in_process,
        *("--key-file", files / "expert.key", "--known", files / "known-newest.json"),
        *("--weights", files / "weights.json", "--tolerance", TOLERANCE),
    )

    passed = {name for name, verdict in verdicts.items() if verdict["state"] == "passed"}
    wanted = {"door", "index", "context", "split", "normalisation", "repeatable", "batch"}
    wanted |= {"positions", "known", "weights", "limits", "context-limit", "truncation", "errors"}
    assert wanted <= passed, {n: v for n, v in verdicts.items() if n in wanted - passed}


async def test_what_is_drawn_has_the_log_probs_that_the_same_engine_scores(client, policy):
    answer = await drawn(client, draw_query(policy))

    assert len(answer.responses) == 4
    assert len({tuple(one.response_ids) for one in answer.responses}) > 1
    for one in answer.responses:
        again = await scored(client, score_query(policy, one.response_ids))
        # Drawn from the vocabulary alone; scored against all rows of the head.
        of_tokens = policy.logprobs_TV(PROMPT, one.response_ids.tolist())[:, :VOCAB_SIZE]
        expected = again.own_logprobs_P - of_tokens.logsumexp(-1).numpy()
        np.testing.assert_allclose(one.logprobs_T, expected, atol=TOLERANCE)
        assert one.finish_reason == ("stop" if one.response_ids[-1] == 257 else "length")
        assert len(one.response_ids) <= 12


async def test_log_probs_are_of_the_distribution_that_was_drawn_from(client, policy):
    answer = await drawn(client, draw_query(policy, temperature=0.5))

    for one in answer.responses:
        ids = one.response_ids.tolist()
        cooled = (policy.logprobs_TV(PROMPT, ids)[:, :VOCAB_SIZE] / 0.5).log_softmax(-1)
        expected = cooled[torch.arange(len(ids)), torch.tensor(ids)].numpy()
        np.testing.assert_allclose(one.logprobs_T, expected, atol=2 * TOLERANCE)


async def test_scores_and_draws_are_of_the_version_wanted_and_back_again(client, policy):
    await client.offer_weights(policy.offer)
    response = [*b"x[0]+1"]

    for manifest in (*policy.offer.manifests, None):
        version = None if manifest is None else manifest.version
        wanted = None if version is None else WantedWeights(mode="exact", version=version)
        scores = await scored(client, score_query(policy, response, weights=wanted))
        answer = await drawn(client, draw_query(policy, version=version))

        rows = policy.logprobs_TV(PROMPT, response, policy.module(manifest))
        own = rows[torch.arange(len(response)), torch.tensor(response)].numpy()
        np.testing.assert_allclose(scores.own_logprobs_P, own, atol=TOLERANCE)
        assert scores.weights_before == scores.weights_after == version
        assert answer.weights_before == answer.weights_after == version
