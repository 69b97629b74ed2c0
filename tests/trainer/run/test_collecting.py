"""Attempts that nothing answered: recorded, left out, counted, and the end of a run if many."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from preceptor_trainer.collect.rollouts import Rollout
from preceptor_trainer.environments.environment import Dialogue
from preceptor_trainer.run.collecting import AttemptsFailed, Collector


class Records:
    def __init__(self) -> None:
        self.ids = list[str]()

    async def record_rollouts(self, rollouts, lineage) -> None:
        self.ids += [r.rollout_id for r in rollouts]


def rollout(number: int, failure: str | None, ids: tuple[int, ...] = (1, 2)) -> Rollout:
    problem = SimpleNamespace(id="p", messages=({"role": "user", "content": "Hi"},), payload={})
    return Rollout(
        rollout_id=f"r{number}",
        group_id="g",
        group=0,
        problem=problem,
        payload_sha256="a" * 64,
        prompt_ids=[7],
        response_ids=np.array(ids, np.int32),
        response_text="",
        behaviour_logprobs=np.zeros(len(ids), np.float32),
        owned=np.ones(len(ids), np.bool_),
        finish_reason="stop",
        step=0,
        weights="run/l0/0",
        failure=failure,
    )


def collector(max_failed: float) -> tuple[Collector, Records]:
    records = Records()
    dialogue = Dialogue(environment=cast("Any", None), max_failed=max_failed)
    made = Collector(
        config=cast("Any", SimpleNamespace(dialogue=dialogue)),
        student=cast("Any", None),
        labeller=cast("Any", None),
        publisher=cast("Any", SimpleNamespace(lineage="l0")),
        journal=cast("Any", records),
        progress=cast("Any", None),
    )
    return made, records


ATTEMPTS = [rollout(0, None), rollout(1, "gone"), rollout(2, "gone", ()), rollout(3, None)]


async def test_attempts_that_nothing_answered_are_recorded_and_left_out():
    made, records = collector(0.5)

    kept = await made._without_failed(list(ATTEMPTS))

    assert [r.rollout_id for r in kept] == ["r0", "r3"]
    assert records.ids == ["r1"]
    assert made._num_failed == 2


async def test_more_of_them_than_allowed_end_the_run_with_the_reason():
    made, _ = collector(0.4)

    with pytest.raises(AttemptsFailed, match=r"2 of 4 attempts .* the first: gone"):
        await made._without_failed(list(ATTEMPTS))


async def test_the_share_is_of_a_step_so_that_one_lost_group_of_dynamic_sampling_ends_no_run():
    made, _ = collector(0.25)

    first = await made._without_failed([rollout(i, None) for i in range(4)])
    lost = await made._without_failed([rollout(4, "gone")])

    assert (len(first), lost) == (4, [])
    with pytest.raises(AttemptsFailed, match="3 of 7 attempts"):
        await made._without_failed([rollout(5, "gone"), rollout(6, "gone")])
