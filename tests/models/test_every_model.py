"""Each family of models goes once through a step: sample, score by the self-teacher, update."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from preceptor_clients.contract.checks import check_answer, check_query
from preceptor_clients.contract.schemas import FeedbackItem, Message, PrefixAnswer, PrefixQuery
from preceptor_clients.contract.schemas import Prompt as ChatPrompt
from preceptor_clients.targets.builder import WeightedAnswer, build_target
from preceptor_services.experts.self_teacher import SelfTeacher
from preceptor_trainer.collect.rollouts import Rollout
from preceptor_trainer.collect.student import RolloutRequest, Student
from preceptor_trainer.kit.placement import placement
from preceptor_trainer.learner.learner import Learner, OptimiserConfig, StepResult
from preceptor_trainer.learner.policy import Policy
from preceptor_trainer.model.batch import TrainRollout, make_batches
from preceptor_trainer.objectives.distil import DistIL
from preceptor_trainer.sampling.params import SamplingParams
from preceptor_trainer.sampling.sampler import Published

from .tiny import FAMILIES, tiny_model

PARAMS = SamplingParams(max_new_tokens=12)
PROBLEM_TEXT = "the cat sat on the mat and the dog sat by the moon"


class OneProblem:
    id = "cat"
    messages = (
        {"role": "system", "content": "one two three"},
        {"role": "user", "content": PROBLEM_TEXT},
    )
    payload: ClassVar[dict[str, Any]] = {}


async def sampled(policy: Policy, num_samples: int = 4) -> list[Rollout]:
    student = Student(policy)
    tensors = {k: v.detach().clone() for k, v in policy.model.state_dict().items()}
    await student.load(Published(version="p/l0/0", tensors=tensors))
    return await student.rollouts(
        RolloutRequest(
            problems=[OneProblem()],
            payloads=["0" * 64],
            num_samples=num_samples,
            params=PARAMS,
            generator=torch.Generator().manual_seed(0),
            prefix="r",
            step=0,
        )
    )


Answered = list[tuple[PrefixQuery, PrefixAnswer]]


async def answers(folder: Path, policy: Policy, rollouts: list[Rollout]) -> Answered:
    """Queries and answers that pass the gateway's and the dispatcher's checks."""
    teacher = SelfTeacher(model=str(folder), threads=1)
    item = FeedbackItem(id="f", kind="reference", text="one two", source="s", version="1")
    capabilities, found = teacher.info().capabilities, Answered()
    queries = [
        PrefixQuery(
            prompt=ChatPrompt(messages=tuple(Message(**m) for m in rollout.problem.messages)),
            response_ids=rollout.response_ids,
            feedback=(item,),
            top_k=8,
            vocab_fingerprint=policy.vocab_fingerprint,
            timeout_ms=20_000,
        )
        for rollout in rollouts
    ]
    for start in range(0, len(queries), 50):
        some = queries[start : start + 50]
        for query, answer in zip(some, await teacher.logprobs(some, []), strict=True):
            assert isinstance(answer, PrefixAnswer)
            check_query(query, capabilities)
            check_answer(query, answer, capabilities)
            assert answer.used_feedback == ("f",)
            found.append((query, answer))
    await teacher.stop()
    return found


def updated(policy: Policy, rollouts: list[Rollout], found: Answered) -> StepResult:
    rows = [
        TrainRollout(
            rollout_id=rollout.rollout_id,
            group=0,
            prompt_ids=rollout.prompt_ids,
            response_ids=rollout.response_ids.tolist(),
            behaviour_logprobs=rollout.behaviour_logprobs,
            target=build_target(
                rollout.rollout_id,
                rollout.owned,
                [WeightedAnswer(answer_id="a", query=query, answer=answer, weight=1.0)],
            ),
        )
        for rollout, (query, answer) in zip(rollouts, found, strict=True)
    ]
    learner = Learner(
        policy.model, OptimiserConfig(lr=1e-3), trunk=policy.trunk, place=policy.place
    )
    return learner.step(make_batches(rows, token_budget=4096), DistIL())


@pytest.mark.parametrize("name", FAMILIES)
async def test_a_step_of_every_family(name: str, tmp_path: Path) -> None:
    folder = tiny_model(name, tmp_path / name)
    policy = Policy(folder)

    rollouts = await sampled(policy)
    found = await answers(folder, policy, rollouts)
    before = {name: p.detach().clone() for name, p in policy.model.named_parameters()}
    result = updated(policy, rollouts, found)

    check_logprobs(folder, rollouts)
    assert np.isfinite(result.loss)
    assert not result.skipped
    old = np.concatenate([credit.old_logprob_T for credit in result.credits])
    drawn = np.concatenate([rollout.behaviour_logprobs for rollout in rollouts])
    assert np.abs(np.sort(old) - np.sort(drawn)).max() < 1e-3
    assert all(not torch.equal(before[n], p) for n, p in policy.model.named_parameters())


def check_logprobs(folder: Path, rollouts: list[Rollout]) -> None:
    """The sampler's log-probs are those of transformers' own forward pass."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    for rollout in rollouts:
        ids = torch.tensor([[*rollout.prompt_ids, *rollout.response_ids.tolist()]])
        with torch.no_grad():
            logits = model(input_ids=ids).logits[0, len(rollout.prompt_ids) - 1 : -1]
        wanted = logits.log_softmax(-1).gather(
            1, torch.tensor(rollout.response_ids).long()[:, None]
        )
        assert np.abs(wanted[:, 0].numpy() - rollout.behaviour_logprobs).max() < 1e-3


@pytest.mark.parametrize("name", ["llama", "gemma3"])
def test_a_prompt_has_exactly_one_start_token(name: str, tmp_path: Path) -> None:
    policy = Policy(tiny_model(name, tmp_path))

    ids = policy.encode([{"role": "user", "content": "the cat"}])

    assert ids.count(policy.tokenizer.bos_token_id) == 1
    assert ids[0] == policy.tokenizer.bos_token_id


def test_thinking_is_switched_off_by_the_templates_variables(tmp_path: Path) -> None:
    folder, chat = tiny_model("qwen3", tmp_path), [{"role": "user", "content": "the cat"}]

    plain = Policy(folder)
    quiet = Policy(folder, chat_template_kwargs={"enable_thinking": False})
    teacher = SelfTeacher(
        model=str(folder), threads=1, chat_template_kwargs={"enable_thinking": False}
    )

    assert quiet.decode_token(quiet.encode(chat)) == (
        plain.decode_token(plain.encode(chat)) + "<think></think>"
    )
    assert teacher._model.encode(chat) == quiet.encode(chat)
    assert plain.encode(chat) == Policy(
        folder, chat_template_kwargs={"enable_thinking": True}
    ).encode(chat)


async def test_16_bits_compute_and_32_bits_learn(tmp_path: Path) -> None:
    folder = tiny_model("qwen3", tmp_path)
    policy = Policy(folder, placement(device="cpu", dtype="bfloat16"))

    rollouts = await sampled(policy)
    result = updated(policy, rollouts, await answers(folder, policy, rollouts))

    assert {p.dtype for p in policy.new_model().parameters()} == {torch.bfloat16}
    assert {p.dtype for p in policy.model.parameters()} == {torch.float32}
    old = {c.rollout_id: c.old_logprob_T for c in result.credits}
    apart = [np.abs(old[r.rollout_id] - r.behaviour_logprobs).max() for r in rollouts]
    assert 1e-5 < max(apart) < 0.5
    assert not result.skipped


async def test_a_padded_head_gives_no_id_that_an_expert_refuses(tmp_path: Path) -> None:
    folder = tiny_model("qwen3", tmp_path, num_padded=200)
    policy = Policy(folder)

    rollouts = await sampled(policy, num_samples=1000)
    found = await answers(folder, policy, rollouts)

    assert len(found) == 1000
    assert max(int(r.response_ids.max()) for r in rollouts) < policy.vocab_size
