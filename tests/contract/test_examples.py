"""The examples in the documentation work as they stand."""

import importlib.util
from pathlib import Path
from types import ModuleType, SimpleNamespace

import httpx
import numpy as np
import torch

from preceptor_clients.contract.checks import check_answer, check_feedback
from preceptor_clients.contract.schemas import (
    FeedbackCall,
    FeedbackQuery,
    LogprobsCall,
    Message,
    PrefixQuery,
    Prompt,
)
from preceptor_clients.http.service import ServiceClient
from preceptor_clients.sdk.answers import Distributions, build_answer
from preceptor_clients.sdk.service import service_app
from preceptor_clients.targets.builder import WeightedAnswer, build_target
from preceptor_trainer.learner.learner import Learner, OptimiserConfig
from preceptor_trainer.model.batch import TrainRollout, make_batches

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"
PROMPT = Prompt(messages=(Message(role="user", content="?"),))
FINGERPRINT = "0" * 64


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


async def test_the_example_expert_passes_the_check_at_the_door():
    expert = load("uniform_expert").Uniform(vocab_size=7, vocab_fingerprint=FINGERPRINT)
    ids = np.array([3, 1], np.int32)
    query = PrefixQuery(prompt=PROMPT, response_ids=ids, vocab_fingerprint=FINGERPRINT, top_k=4)
    transport = httpx.ASGITransport(service_app(expert))

    async with ServiceClient("http://expert", "", transport=transport) as client:
        reply = await client.logprobs(LogprobsCall(queries=(query,)), timeout_s=5)

    answer = reply.results[0].answer
    assert answer is not None
    check_answer(query, answer, expert.info().capabilities)
    np.testing.assert_allclose(answer.own_logprobs_P, -np.log(7), atol=1e-6)


async def test_the_example_source_passes_the_check_at_the_door():
    source = load("brevity_source").Brevity(max_tokens=1)
    query = FeedbackQuery(
        rollout_id="r",
        prompt=PROMPT,
        response_ids=np.array([3, 1], np.int32),
        response_text="ab",
        finish_reason="stop",
        payload_sha256="0" * 64,
    )
    transport = httpx.ASGITransport(service_app(source))

    async with ServiceClient("http://source", "", transport=transport) as client:
        reply = await client.feedback(FeedbackCall(queries=(query,)), timeout_s=5)

    answer = reply.results[0].answer
    assert answer is not None
    check_feedback(query, answer)
    assert (answer.items[0].score, answer.items[0].text) == (0.0, "1 tokens too long")


class Bigram(torch.nn.Module):
    """Logits of the next token from the last one alone."""

    def __init__(self) -> None:
        super().__init__()
        self.table = torch.nn.Embedding(7, 7)
        torch.nn.init.zeros_(self.table.weight)

    def get_decoder(self):
        return lambda input_ids, **_: SimpleNamespace(last_hidden_state=self.table(input_ids))

    def get_output_embeddings(self):
        return torch.nn.Identity()


def test_one_step_of_the_example_objective_moves_towards_what_the_expert_prefers():
    likes_three = np.full((1, 7), np.log(0.05), np.float32)
    likes_three[0, 3] = np.log(0.7)
    rows = []
    for i, token in enumerate((3, 5)):
        query = PrefixQuery(
            prompt=Prompt(ids=np.array([1], np.int32)),
            response_ids=np.array([token], np.int32),
            vocab_fingerprint=FINGERPRINT,
            top_k=7,
        )
        answer = answer_with(query, likes_three, token)
        target = build_target(f"r{i}", np.ones(1, bool), [WeightedAnswer("a", query, answer, 1.0)])
        rows.append(
            TrainRollout(
                rollout_id=f"r{i}", group=0, prompt_ids=[1], response_ids=[token], target=target
            )
        )
    model = Bigram()
    learner = Learner(model, OptimiserConfig(lr=0.1))

    learner.step(make_batches(rows, token_budget=64), load("skewed_kl").SkewedKL())

    after = model.table.weight[1].log_softmax(-1)
    assert after[3] > after[0]
    assert after[3] > after[5]


def answer_with(query: PrefixQuery, logprobs: np.ndarray, token: int):
    order = np.argsort(-logprobs[0], kind="stable")
    return build_answer(
        query,
        Distributions(
            ids_PK=order[None].astype(np.int32),
            logprobs_PK=logprobs[:, order],
            own_logprobs_P=logprobs[:, token],
        ),
        expert="e",
        expert_version="1",
    )
