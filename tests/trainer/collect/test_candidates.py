"""The student's own ids travel: trainer, query, expert, target, objective.

Student and expert are the shipped student itself, and the expert sees no feedback: whatever is
shifted, swapped or dropped on the way shows as a divergence that is not zero.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from preceptor_clients.contract.schemas import PrefixAnswer, PrefixSubmission
from preceptor_services.experts.self_teacher import SelfTeacher
from preceptor_trainer.collect import candidates
from preceptor_trainer.collect.candidates import student_entropy, student_top_k
from preceptor_trainer.collect.context import NothingInView
from preceptor_trainer.collect.labelling import ExpertUse, Labeller
from preceptor_trainer.collect.rollouts import Attempt, Rollout
from preceptor_trainer.collect.student import RolloutRequest, Student
from preceptor_trainer.learner.policy import Policy
from preceptor_trainer.model.batch import TrainRollout, collate
from preceptor_trainer.model.heads.dense import student_statistics
from preceptor_trainer.objectives.divergences import Divergence
from preceptor_trainer.objectives.sdpo import SDPO
from preceptor_trainer.sampling.params import SamplingParams
from preceptor_trainer.sampling.sampler import Published
from preceptor_trainer.student import STUDENT_DIR
from preceptor_trainer.tasks.programming_by_example.problems import sample_problems
from preceptor_trainer.tasks.task import NOT_JUDGED

NUM_IDS = 5


@dataclass
class ExpertInProcess:
    """The part of a gateway that forwards queries; it keeps them."""

    expert: SelfTeacher

    async def logprobs(
        self, name: str, submissions: Sequence[PrefixSubmission], **options: object
    ) -> list[SimpleNamespace]:
        self.queries = [s.query.model_copy(update={"weights": None}) for s in submissions]
        answers = await self.expert.logprobs(self.queries, [])
        assert all(isinstance(a, PrefixAnswer) for a in answers)
        return [
            SimpleNamespace(answer=a, problem=None, ticket=SimpleNamespace(answer_id=str(i)))
            for i, a in enumerate(answers)
        ]


@pytest.fixture(scope="module")
def policy() -> Policy:
    return Policy(STUDENT_DIR)


@pytest.fixture(scope="module")
def rollouts(policy: Policy) -> list[Rollout]:
    async def sampled() -> list[Rollout]:
        student = Student(policy)
        await student.load(Published(version="run/l0/0", tensors=policy.model.state_dict()))
        request = RolloutRequest(
            problems=sample_problems("train", count=2, seed=0),
            payloads=["a" * 64] * 2,
            num_samples=2,
            params=SamplingParams(max_new_tokens=12),
            generator=torch.Generator().manual_seed(0),
            prefix="run",
            step=0,
        )
        return await student.with_candidates(await student.rollouts(request), NUM_IDS)

    return asyncio.run(sampled())


def test_candidates_are_the_students_best_ids_whatever_they_were_batched_with(policy, rollouts):
    alone = [student_top_k(policy.model, [r], NUM_IDS, policy.vocab_size)[0] for r in rollouts]

    for rollout, chosen in zip(rollouts, alone, strict=True):
        ids = torch.tensor([[*rollout.prompt_ids, *rollout.response_ids.tolist()]])
        with torch.no_grad():
            logits = policy.model(input_ids=ids).logits[0][len(rollout.prompt_ids) - 1 : -1]
        best = logits[:, : policy.vocab_size].topk(NUM_IDS).indices.numpy()
        assert rollout.candidate_ids is not None
        assert (np.sort(chosen, 1) == np.sort(best, 1)).all()
        assert (np.sort(rollout.candidate_ids, 1) == np.sort(best, 1)).all()


def test_entropies_are_of_the_students_rows_whatever_they_were_batched_with(policy, rollouts):
    entropies = student_entropy(policy.model, rollouts, policy.vocab_size)

    for rollout, entropy in zip(rollouts, entropies, strict=True):
        ids = torch.tensor([[*rollout.prompt_ids, *rollout.response_ids.tolist()]])
        with torch.no_grad():
            logits = policy.model(input_ids=ids).logits[0][len(rollout.prompt_ids) - 1 : -1]
        expected = torch.distributions.Categorical(logits=logits[:, : policy.vocab_size]).entropy()
        np.testing.assert_allclose(entropy, expected.numpy(), atol=1e-4)


def test_logits_of_a_part_at_a_time_give_the_same_ids_and_entropies(policy, rollouts, monkeypatch):
    whole_ids = student_top_k(policy.model, rollouts, NUM_IDS, policy.vocab_size)
    whole_entropies = student_entropy(policy.model, rollouts, policy.vocab_size)
    seen: list[int] = []
    handle = policy.model.get_output_embeddings().register_forward_hook(
        lambda module, inputs, output: seen.append(len(output))
    )
    monkeypatch.setattr(candidates, "LOGIT_BYTES", 3 * 4 * policy.vocab_size)

    ids = student_top_k(policy.model, rollouts, NUM_IDS, policy.vocab_size)
    entropies = student_entropy(policy.model, rollouts, policy.vocab_size)
    handle.remove()

    assert max(seen) == 3
    for part, whole in zip(ids, whole_ids, strict=True):
        assert (np.sort(part, 1) == np.sort(whole, 1)).all()
    for part, whole in zip(entropies, whole_entropies, strict=True):
        np.testing.assert_allclose(part, whole, atol=1e-5)


async def test_a_student_that_asks_about_itself_finds_no_divergence(policy, rollouts):
    teacher = SelfTeacher(model=str(STUDENT_DIR), needs_feedback=False, threads=1)
    gateway = ExpertInProcess(teacher)
    labeller = Labeller(
        gateway=gateway,  # type: ignore[arg-type]
        run="run",
        task=NOT_JUDGED,
        experts=(ExpertUse(name="self", top_k=1, needs_feedback=False),),
        context=NothingInView(),
        vocab_fingerprint=policy.vocab_fingerprint,
        batching="group",
    )

    labelled = await labeller.targets(
        [Attempt(rollout=r, items=(), task=NOT_JUDGED) for r in rollouts]
    )
    await teacher.stop()

    batch = collate(
        [
            TrainRollout(
                rollout_id=r.rollout_id,
                group=r.group,
                prompt_ids=r.prompt_ids,
                response_ids=r.response_ids.tolist(),
                target=row.target,
            )
            for r, row in zip(rollouts, labelled, strict=True)
        ]
    )
    objective = SDPO(divergence=Divergence(alpha=1.0, support="student", num_ids=NUM_IDS))
    stats = student_statistics(policy.model, batch, objective.needs)  # type: ignore[arg-type]
    (advantages,) = objective.advantages([stats], [batch])
    losses = objective.token_losses(stats, batch, advantages)
    assert gateway.queries[0].candidate_ids is not None
    assert batch.targets.candidate_ids_BTC.shape[-1] == NUM_IDS
    assert batch.labelled_BT.sum() == sum(len(r.response_ids) for r in rollouts)
    assert losses.abs().max() < 1e-4
    shifted = batch.targets.candidate_logprobs_BTEC.roll(1, dims=1)
    assert (shifted - batch.targets.candidate_logprobs_BTEC).abs().max() > 1
