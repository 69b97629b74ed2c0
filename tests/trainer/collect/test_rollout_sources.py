"""Given answers stand where sampled ones would, and are told apart from them."""

import asyncio

import pytest

from preceptor_trainer.collect.rollout_sources import OnPolicy, References, RolloutSource
from preceptor_trainer.collect.rollouts import Rollout
from preceptor_trainer.collect.student import RolloutRequest, Student
from preceptor_trainer.kit.seeding import generator
from preceptor_trainer.learner.policy import Policy
from preceptor_trainer.sampling.params import SamplingParams
from preceptor_trainer.sampling.sampler import Published
from preceptor_trainer.student import STUDENT_DIR
from preceptor_trainer.tasks.programming_by_example.problems import sample_problems


@pytest.fixture(scope="module")
def student() -> Student:
    policy = Policy(STUDENT_DIR)
    student = Student(policy)
    asyncio.run(student.load(Published(version="p/l0/0", tensors=policy.model.state_dict())))
    return student


async def collect(source: RolloutSource, student: Student, *, num_samples: int) -> list[Rollout]:
    request = RolloutRequest(
        problems=sample_problems("train", count=2, seed=0),
        payloads=["payload"] * 2,
        num_samples=num_samples,
        params=SamplingParams(max_new_tokens=4),
        generator=generator(0),
        prefix="r",
        step=3,
    )
    return await source(student, request)


def texts_of(problem):
    return problem.behaviour.texts


async def test_a_share_of_every_group_is_given_and_the_rest_is_sampled(student):
    rows = await collect(References(texts_of=texts_of, share=0.5), student, num_samples=4)

    assert [r.group for r in rows] == [0] * 4 + [1] * 4
    assert [r.given for r in rows] == [False, False, True, True] * 2
    assert len({r.rollout_id for r in rows}) == 8


async def test_a_given_answer_is_the_reference_with_its_end_token(student):
    (first, second) = await collect(References(texts_of=texts_of), student, num_samples=1)

    assert first.response_text == first.problem.reference
    assert first.response_ids[-1] == student.response_ids("")[0]
    assert second.weights == "p/l0/0"


async def test_on_policy_samples_are_the_students_own(student):
    rows = await collect(OnPolicy(), student, num_samples=2)
    mixed = await collect(References(texts_of=texts_of, share=0.5), student, num_samples=4)

    own = [r for r in mixed if not r.given]
    assert [r.response_ids.tolist() for r in rows] == [r.response_ids.tolist() for r in own]
    assert not any(r.given for r in rows)


def test_a_share_outside_0_to_1_is_refused():
    with pytest.raises(ValueError, match=r"share must be in \(0, 1\], not 1.5"):
        References(texts_of=texts_of, share=1.5)
