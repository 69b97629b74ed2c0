"""A sampler behind `/v1/generate`: its requests, and what is refused of its replies."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from preceptor_clients.contract.errors import AnswerRefused, PreceptorError, ServiceUnavailable
from preceptor_clients.contract.generation import (
    GenerateAnswer,
    Generated,
    GenerateQuery,
    SleepCall,
)
from preceptor_clients.contract.schemas import (
    Capabilities,
    ServiceInfo,
    ServiceLimits,
    WeightManifest,
    WeightsOffer,
)
from preceptor_clients.sdk.service import service_app
from preceptor_trainer.sampling.params import SamplingParams
from preceptor_trainer.sampling.sampler import Published, SampleRequest
from preceptor_trainer.sampling.service import SampledByService, ServiceSampler

from ...services.dispatcher.conftest import serving

KEY, VOCAB, END, VERSION = "sampler-" + "k" * 40, "ab" * 32, 9, "run/l0/3"
PARAMS = SamplingParams(max_new_tokens=4)


class Draws:
    """Says the prompt's last token again, and then its end; `change` may alter an answer."""

    def __init__(self, change: Callable[[GenerateAnswer], Any] | None = None) -> None:
        self.change = change
        self.calls: list[Sequence[GenerateQuery]] = []
        self.offered: list[str] = []
        self.slept: list[bool] = []
        self.may_sleep = False

    def info(self) -> ServiceInfo:
        capabilities = Capabilities(
            max_top_k=1, vocab_fingerprint=VOCAB, vocab_size=10, max_context=64, weights=True
        )
        return ServiceInfo(
            name="draws",
            role="expert",
            version="1",
            capabilities=capabilities,
            limits=ServiceLimits(max_batch=4, max_concurrency=2),
        )

    async def logprobs(self, queries: object, answer_keys: object) -> Any:
        raise AssertionError("nobody asks for log-probs here")

    async def offer_weights(self, offer: WeightsOffer) -> None:
        self.offered += [manifest.version for manifest in offer.manifests]

    async def sleep(self, call: SleepCall) -> None:
        self.slept.append(call.asleep)

    async def generate(
        self, queries: Sequence[GenerateQuery]
    ) -> list[GenerateAnswer | PreceptorError]:
        self.calls.append(queries)
        answers = [_answer(query) for query in queries]
        return answers if self.change is None else [self.change(answer) for answer in answers]


def _answer(query: GenerateQuery) -> GenerateAnswer:
    assert query.weights is not None
    assert query.prompt.ids is not None
    return GenerateAnswer(
        responses=(_drawn([query.prompt.ids[-1], END]),) * query.count,
        vocab_fingerprint=VOCAB,
        sampler="draws",
        sampler_version="1",
        weights_before=query.weights.version,
        weights_after=query.weights.version,
    )


def _drawn(ids: Sequence[int], finish_reason: Any = "stop", logprob: float = -0.5) -> Generated:
    return Generated(
        response_ids=np.array(ids, np.int32),
        logprobs_T=np.full(len(ids), logprob, np.float32),
        finish_reason=finish_reason,
    )


def _short_of_a_logprob() -> Generated:
    return _drawn([1, END]).model_copy(update={"logprobs_T": np.zeros(1, np.float32)})


@pytest.fixture
def make_sampler(tmp_path: Path) -> Callable[[Draws], Any]:
    (tmp_path / "sampler.key").write_text(KEY)

    @contextlib.asynccontextmanager
    async def make(service: Draws) -> AsyncGenerator[ServiceSampler]:
        async with serving(service_app(service, key=KEY)) as url:
            policy = SimpleNamespace(vocab_fingerprint=VOCAB, vocab_size=10, end_ids={END, 8})
            options = SampledByService(
                url=url, key_file=tmp_path / "sampler.key", sleeps=service.may_sleep
            )
            sampler = options(policy)
            await sampler.load(_published())
            yield sampler

    return make


def _published() -> Published:
    manifest = WeightManifest(
        version=VERSION,
        uri="file:///nowhere",
        files={"model.safetensors": "a" * 64},
        vocab_fingerprint=VOCAB,
    )
    return Published(version=VERSION, tensors={}, manifest=manifest)


def _request(num_prompts: int, **fields: Any) -> SampleRequest:
    prompts = [[1, number % 8] for number in range(num_prompts)]
    generator = torch.Generator().manual_seed(0)
    return SampleRequest(prompts=prompts, params=PARAMS, generator=generator, **fields)


async def test_groups_come_in_the_order_of_the_prompts_from_the_offered_version(make_sampler):
    service = Draws()
    async with make_sampler(service) as sampler:
        groups = await sampler.sample(_request(10, num_samples=3))

    assert [[g.response_ids.tolist() for g in group] for group in groups] == [
        [[number % 8, END]] * 3 for number in range(10)
    ]
    assert {g.finish_reason for group in groups for g in group} == {"stop"}
    np.testing.assert_allclose(groups[0][0].logprobs, [-0.5, -0.5])
    assert service.offered == [VERSION]
    queries = [query for call in service.calls for query in call]
    assert {query.weights.version for query in queries} == {VERSION}
    assert len({query.sampling.seed for query in queries}) == 10
    assert max(len(call) for call in service.calls) <= 4


async def test_a_forced_prefix_belongs_to_the_prompt_and_leads_the_response(make_sampler):
    async with make_sampler(Draws()) as sampler:
        [[one], [two]] = await sampler.sample(_request(2, forced_prefixes=[[5, 6], []]))

    assert (one.response_ids.tolist(), one.num_forced) == ([5, 6, 6, END], 2)
    assert np.isnan(one.logprobs).tolist() == [True, True, False, False]
    assert (two.response_ids.tolist(), two.num_forced) == ([1, END], 0)


def _with(answer: GenerateAnswer, **fields: Any) -> GenerateAnswer:
    return answer.model_copy(update=fields)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: _with(a, weights_after="run/l0/4"), "weights_before.*drawn from run/l0/3 to"),
        (lambda a: _with(a, vocab_fingerprint="cd" * 32), "vocab_fingerprint"),
        (lambda a: _with(a, responses=()), "responses.*has 0 for 1 wanted"),
        (lambda a: _with(a, responses=(_drawn([1] * 5, "length"),)), "has 5 of 1 to 4 tokens"),
        (lambda a: _with(a, responses=(_drawn([10, END]),)), r"ids outside \[0, 10\)"),
        (lambda a: _with(a, responses=(_drawn([1, END], logprob=0.5),)), "logprobs_T"),
        (lambda a: _with(a, responses=(_short_of_a_logprob(),)), "logprobs_T"),
        (lambda a: _with(a, responses=(_drawn([1, 2]),)), r"'stop' after the token 2.*\[8, 9\]"),
        (lambda a: _with(a, responses=(_drawn([1, END], "length"),)), "'length' after the token 9"),
    ],
)
async def test_a_response_that_the_policy_did_not_write_is_refused(make_sampler, change, message):
    async with make_sampler(Draws(change)) as sampler:
        with pytest.raises(AnswerRefused, match=message):
            await sampler.sample(_request(1))


async def test_the_samplers_problem_is_the_runs(make_sampler):
    async with make_sampler(Draws(lambda _: ServiceUnavailable("the engine is gone"))) as sampler:
        with pytest.raises(ServiceUnavailable, match="the engine is gone"):
            await sampler.sample(_request(1))


async def test_the_base_of_an_adapter_is_offered_before_it(make_sampler):
    service, published = Draws(), _published()
    base = published.manifest.model_copy(update={"version": "run/l0/0"})
    adapter = published.manifest.model_copy(update={"version": "run/l0/4", "base": "run/l0/0"})
    async with make_sampler(service) as sampler:
        takes = await sampler.takes_adapters()
        await sampler.load(
            Published(version=adapter.version, tensors={}, manifest=adapter, base=base)
        )

    assert not takes  # it does not say that it takes them
    assert service.offered[-2:] == ["run/l0/0", "run/l0/4"]


async def test_weights_without_files_cannot_be_offered(make_sampler):
    async with make_sampler(Draws()) as sampler:
        with pytest.raises(ValueError, match="run/l0/9 were not published"):
            await sampler.load(Published(version="run/l0/9", tensors={}))


async def test_the_service_is_put_to_sleep_and_woken(make_sampler):
    service = Draws()
    service.may_sleep = True

    async with make_sampler(service) as sampler:
        tried = list(service.slept)
        await sampler.sleep()
        await sampler.wake()

    assert tried == [True, False]  # before the first version, so that it is refused then
    assert service.slept == [*tried, True, False]
