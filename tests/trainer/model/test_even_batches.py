"""Batches of equal numbers of tokens."""

from __future__ import annotations

import pytest

from preceptor_trainer.model.batch import TrainRollout
from preceptor_trainer.model.even_batches import make_even_batches


def rollout(name: str, group: int, num_tokens: int) -> TrainRollout:
    """One of so many tokens, two of them the prompt's."""
    return TrainRollout(
        rollout_id=name, group=group, prompt_ids=[1, 2], response_ids=[3] * (num_tokens - 2)
    )


def sizes(batches) -> list[int]:
    return [int((batch.predictor_BT.amax(1) + 2).sum()) for batch in batches]


def test_batches_are_as_few_as_fit_and_of_one_size():
    rollouts = [rollout(f"{g}-{i}", g, 4 + 6 * (g % 2)) for g in range(8) for i in range(3)]

    batches = make_even_batches(rollouts, token_budget=90)

    assert sizes(batches) == [84, 84]
    names = sorted(name for batch in batches for name in batch.rollout_ids)
    assert names == sorted(r.rollout_id for r in rollouts)


def test_groups_stay_together_where_they_fit():
    rollouts = [rollout(f"{g}-{i}", g, 5) for g in range(5) for i in range(2)]

    batches = make_even_batches(rollouts, token_budget=20)

    assert [len(set(batch.group_B.tolist())) * 2 for batch in batches] == [
        batch.num_rollouts for batch in batches
    ]


def test_a_row_beyond_the_budget_has_a_batch_of_its_own_which_is_the_first():
    rollouts = [rollout("a", 0, 4), rollout("long", 0, 30), rollout("b", 1, 4)]

    batches = make_even_batches(rollouts, token_budget=8)

    assert batches[0].rollout_ids == ("long",)
    assert sizes(batches)[1:] == [8]


def test_no_budget_is_refused():
    with pytest.raises(ValueError, match="token_budget must be positive, not 0"):
        make_even_batches([rollout("a", 0, 4)], token_budget=0)
