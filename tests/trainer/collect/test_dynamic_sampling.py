"""A step goes on to further problems in the place of groups that teach nothing."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import cast

import pytest

from preceptor_trainer.collect.dynamic_sampling import DynamicSampling, Judged
from preceptor_trainer.collect.rollouts import Attempt
from preceptor_trainer.tasks.task import Problem

Scores = tuple[float | list[float] | None, ...]
"""Of a group; in a list is the score of an answer that was given, not sampled."""
MIXED, FAILED, SOLVED = (0.0, 1.0), (0.0, 0.0), (1.0, 1.0)


class Judge:
    """Gives each problem the scores that it is made of, and keeps what was asked when."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, int]] = []

    async def __call__(self, problems: Sequence[Problem], first_group: int) -> list[Attempt]:
        self.asked.append((first_group, len(problems)))
        return [
            cast(
                Attempt,
                SimpleNamespace(
                    score=score[0] if isinstance(score, list) else score,
                    rollout=SimpleNamespace(
                        group=first_group + place, given=isinstance(score, list)
                    ),
                ),
            )
            for place, problem in enumerate(cast("Sequence[Scores]", problems))
            for score in problem
        ]


def groups(attempts: Sequence[Attempt]) -> list[int]:
    return sorted({attempt.rollout.group for attempt in attempts})


async def fill(reserve: Sequence[Scores], wanted: int) -> tuple[Judged, Judge]:
    judge = Judge()
    problems = cast("Sequence[Problem]", reserve)
    return await DynamicSampling(groups=wanted).fill(problems, judge), judge


async def test_problems_are_tried_in_order_until_enough_groups_differ():
    judged, judge = await fill([MIXED, FAILED, SOLVED, MIXED, FAILED, MIXED, MIXED], wanted=3)

    assert groups(judged.attempts) == [0, 3, 5]
    assert groups(judged.discarded) == [1, 2, 4]
    assert judge.asked == [(0, 3), (3, 2), (5, 1)], "no more at a time than are missing"
    assert judged.missing_groups == 0


async def test_a_reserve_that_does_not_suffice_gives_what_it_has():
    judged, _ = await fill([FAILED, MIXED, FAILED], wanted=2)

    assert (groups(judged.attempts), groups(judged.discarded)) == ([1], [0, 2])
    assert judged.missing_groups == 1


async def test_a_step_without_any_signal_is_still_a_step():
    judged, _ = await fill([FAILED, SOLVED, FAILED], wanted=2)

    assert (groups(judged.attempts), groups(judged.discarded)) == ([1, 2], [0])
    assert judged.missing_groups == 2


async def test_an_attempt_that_nobody_scored_is_no_difference():
    judged, _ = await fill([(None, 1.0), (None, 0.0, 1.0)], wanted=1)

    assert (groups(judged.attempts), groups(judged.discarded)) == ([1], [0])


async def test_the_score_of_a_given_answer_is_no_difference():
    judged, _ = await fill([(0.0, 0.0, [1.0]), (0.0, 1.0, [1.0])], wanted=1)

    assert (groups(judged.attempts), groups(judged.discarded)) == ([1], [0])


def test_a_step_of_no_groups_is_refused():
    with pytest.raises(ValueError, match="groups: must be at least 1, not 0"):
        DynamicSampling(groups=0)
