"""Bundling: groups stay together, limits hold, order is kept."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from preceptor_clients.contract.schemas import ServiceLimits
from preceptor_services.questions.bundle import bundle


@dataclass(frozen=True)
class Sized:
    number: int
    group_id: str | None
    num_tokens: int


_QUESTIONS = st.lists(
    st.tuples(st.sampled_from([None, "a", "b", "c"]), st.integers(1, 50)), max_size=40
).map(lambda drawn: [Sized(n, group, tokens) for n, (group, tokens) in enumerate(drawn)])


@given(_QUESTIONS, st.integers(1, 8), st.integers(1, 100), st.booleans())
def test_every_question_is_in_one_job_within_the_limits(
    questions: list[Sized], max_batch: int, max_tokens: int, exclusive: bool
) -> None:
    limits = ServiceLimits(max_batch=max_batch, max_batch_tokens=max_tokens)

    jobs = bundle(questions, limits, exclusive=exclusive)

    assert sorted(q.number for job in jobs for q in job) == [q.number for q in questions]
    for job in jobs:
        assert len({q.group_id for q in job}) == 1
        assert len(job) <= max_batch
        assert len(job) == 1 or sum(q.num_tokens for q in job) <= max_tokens
        assert [q.number for q in job] == sorted(q.number for q in job)
        assert not exclusive or job[0].group_id is not None or len(job) == 1


def test_groups_come_in_the_order_of_their_first_member() -> None:
    questions = [Sized(0, "b", 1), Sized(1, "a", 1), Sized(2, "b", 1)]

    jobs = bundle(questions, ServiceLimits(), exclusive=True)

    assert [[q.number for q in job] for job in jobs] == [[0, 2], [1]]
