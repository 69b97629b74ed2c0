"""The student and its sampler: who is woken, and when."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest
from torch import nn

from preceptor_trainer.collect.student import Student
from preceptor_trainer.sampling.sampler import Published


class Sampler:
    """Notes what it is told."""

    def __init__(self, sleeps: bool) -> None:
        self.sleeps = sleeps
        self.told = list[str]()

    async def load(self, published: Published) -> None:
        self.told.append(published.version)

    async def sleep(self) -> None:
        self.told.append("sleep")

    async def wake(self) -> None:
        self.told.append("wake")


def student_of(sampler: Any) -> Student:
    policy = cast(Any, SimpleNamespace(new_model=nn.Identity))
    return Student(policy, lambda _: sampler)


@pytest.mark.parametrize(
    ("sleeps", "told"),
    [
        (True, ["wake", "run/l0/1", "sleep", "wake"]),
        (False, ["run/l0/1"]),
    ],
)
async def test_a_sampler_that_sleeps_is_woken_whenever_a_version_is_wanted(sleeps, told) -> None:
    sampler = Sampler(sleeps)
    student = student_of(sampler)
    version = Published(version="run/l0/1", tensors={})

    await student.load(version)
    await student.sleep()
    await student.load(version)

    assert student.sleeps == sleeps
    assert sampler.told == told


async def test_a_sampler_that_knows_nothing_of_sleep_is_left_alone() -> None:
    student = student_of(SimpleNamespace())

    await student.sleep()
    await student.wake()

    assert not student.sleeps
