"""Forming calls: whole jobs, in order, inside the service's limits."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from preceptor_clients.contract.schemas import ServiceLimits
from preceptor_services.dispatcher.batching import plan_calls

LIMITS = ServiceLimits(max_batch=8, max_batch_tokens=100)


@dataclass(frozen=True)
class Job:
    num_items: int = 1
    num_tokens: int = 1
    alone: bool = False


def sizes(jobs: list[Job]) -> list[int]:
    return [len(call) for call in plan_calls(jobs, LIMITS)]


@pytest.mark.parametrize(
    ("jobs", "expected"),
    [
        ([], []),
        ([Job()] * 8, [8]),
        ([Job()] * 9, [8, 1]),
        ([Job(num_items=5)] * 3, [1, 1, 1]),
        ([Job(num_tokens=40)] * 3, [2, 1]),
        ([Job(), Job(alone=True), Job(), Job()], [1, 1, 2]),
        ([Job(alone=True), Job(alone=True)], [1, 1]),
        ([Job(num_items=50), Job()], [1, 1]),
    ],
)
def test_calls_are_as_full_as_the_limits_allow(jobs: list[Job], expected: list[int]) -> None:
    assert sizes(jobs) == expected


@given(
    st.lists(st.builds(Job, st.integers(1, 12), st.integers(1, 150), st.booleans()), max_size=30)
)
def test_no_job_is_lost_moved_or_squeezed_in(jobs: list[Job]) -> None:
    calls = plan_calls(jobs, LIMITS)

    assert [job for call in calls for job in call] == jobs
    for call in calls:
        if len(call) > 1:
            assert not any(job.alone for job in call)
            assert sum(job.num_items for job in call) <= LIMITS.max_batch
            assert sum(job.num_tokens for job in call) <= LIMITS.max_batch_tokens


def test_a_call_with_enough_tokens_is_given_no_further_job() -> None:
    limits = LIMITS.model_copy(update={"enough_tokens": 60})
    jobs = [Job(num_tokens=n) for n in (30, 30, 20, 90, 10, 40, 20)]

    assert [len(call) for call in plan_calls(jobs, limits)] == [2, 1, 1, 3]
