"""The examples of tasks, participants and samplers work as they stand."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, cast

import httpx
import numpy as np
import pytest
import torch

from preceptor_clients.contract.generation import GenerateAnswer, Generated, GenerateQuery
from preceptor_clients.contract.schemas import Capabilities, FeedbackItem, ServiceInfo
from preceptor_clients.http.service import ServiceClient
from preceptor_clients.sdk.service import service_app
from preceptor_trainer.collect.rollouts import Attempt, Rollout
from preceptor_trainer.collect.student import RolloutRequest, Student
from preceptor_trainer.learner.policy import Policy
from preceptor_trainer.sampling.params import SamplingParams
from preceptor_trainer.sampling.sampler import Published
from preceptor_trainer.student import STUDENT_DIR
from preceptor_trainer.tasks.programming_by_example.problems import sample_problems

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def item(source: str, score: float | None) -> FeedbackItem:
    error = None if score is not None else "the judge was away"
    return FeedbackItem(
        id=source, kind="verdict", score=score, error=error, source=source, version="1"
    )


@pytest.mark.parametrize(
    ("scores", "score", "solved"),
    [
        ((1.0, 1.0), 1.0, True),
        ((1.0, 0.5), 0.75, False),
        ((1.0, None), None, False),
        ((), None, False),
    ],
)
def test_the_example_task_is_solved_only_where_every_source_is_content(
    scores: Sequence[float | None], score: float | None, solved: bool
) -> None:
    task = load("strict_task").EverySource()
    items = [item(name, s) for name, s in zip(task.sources, scores, strict=False)]

    attempt = Attempt(rollout=cast(Rollout, None), items=tuple(items), task=task)

    assert (attempt.score, attempt.solved) == (score, solved)
    assert attempt.failed == (score is not None and not solved)


async def test_the_example_participant_ends_a_run_once_its_share_is_solved() -> None:
    watching = load("stop_when_solved").StopWhenSolved(share=0.5).join(cast(Any, None))

    def rows(*solved: bool) -> Any:
        return [SimpleNamespace(attempt=SimpleNamespace(solved=s)) for s in solved]

    assert not await watching.ends(None, rows(True, False, False))
    assert await watching.ends(None, rows(True, True, False))


class Draws:
    """A service that says the prompt's last token again, and then its end."""

    def __init__(self, policy: Policy) -> None:
        self._fingerprint = policy.vocab_fingerprint
        self._end = int(policy.tokenizer.eos_token_id)
        self.seeds: list[int | None] = []

    def info(self) -> ServiceInfo:
        capabilities = Capabilities(
            max_top_k=1, vocab_fingerprint=self._fingerprint, vocab_size=300, max_context=4096
        )
        return ServiceInfo(name="draws", role="expert", version="1", capabilities=capabilities)

    async def logprobs(self, queries: object, answer_keys: object) -> Any:
        raise AssertionError("nobody asks for log-probs here")

    async def generate(self, queries: Sequence[GenerateQuery]) -> list[GenerateAnswer]:
        self.seeds += [query.sampling.seed for query in queries]
        return [self._answer(query) for query in queries]

    def _answer(self, query: GenerateQuery) -> GenerateAnswer:
        assert query.weights is not None
        assert query.prompt.ids is not None
        response = Generated(
            response_ids=np.array([query.prompt.ids[-1], self._end], np.int32),
            logprobs_T=np.array([-0.5, -0.25], np.float32),
            finish_reason="stop",
        )
        return GenerateAnswer(
            responses=(response,) * query.count,
            vocab_fingerprint=self._fingerprint,
            sampler="draws",
            sampler_version="1",
            weights_before=query.weights.version,
            weights_after=query.weights.version,
        )


async def test_the_example_sampler_makes_a_runs_rollouts() -> None:
    policy, make = Policy(STUDENT_DIR), load("generate_sampler").GenerateSampler
    service = Draws(policy)
    transport = httpx.ASGITransport(service_app(service))
    async with ServiceClient("http://sampler", "", transport=transport) as client:
        student = Student(policy, lambda p: make(client, p.vocab_fingerprint))
        await student.load(Published(version="run/l0/3", tensors=policy.model.state_dict()))

        rollouts = await student.rollouts(
            RolloutRequest(
                problems=sample_problems("train", count=2, seed=0),
                payloads=["a" * 64] * 2,
                num_samples=3,
                params=SamplingParams(max_new_tokens=8),
                generator=torch.Generator().manual_seed(0),
                prefix="run",
                step=3,
            )
        )

    assert [r.group for r in rollouts] == [0, 0, 0, 1, 1, 1]
    assert {(r.weights, r.finish_reason) for r in rollouts} == {("run/l0/3", "stop")}
    assert rollouts[0].response_ids[0] == rollouts[0].prompt_ids[-1]
    np.testing.assert_allclose(rollouts[0].behaviour_logprobs, [-0.5, -0.25])
    assert len(set(service.seeds)) == 2
