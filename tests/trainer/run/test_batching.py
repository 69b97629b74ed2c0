"""Batches and their padding, as a run's settings ask for them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from preceptor_trainer.model.packed import packed_contexts
from preceptor_trainer.objectives.grpo import GRPO
from preceptor_trainer.run.batching import batches_of, packing_metrics


def settings(*, packing: bool, ranks: int = 1, token_budget: int = 12) -> Any:
    return SimpleNamespace(
        packing=packing, token_budget=token_budget, ranks=ranks, objective=GRPO()
    )


def test_packed_batches_have_equal_numbers_of_tokens_and_tell_their_padding(make_rollout) -> None:
    rollouts = [make_rollout(str(i), (1,) * n, group=i) for i, n in enumerate((7, 7, 3, 3))]
    policy: Any = SimpleNamespace(trunk=packed_contexts, model=None)

    packed = batches_of(rollouts, settings(packing=True))
    padded = batches_of(rollouts, settings(packing=False))

    assert [int(batch.response_mask_BT.sum()) for batch in packed] == [10, 10]
    assert [int(batch.response_mask_BT.sum()) for batch in padded] == [7, 7, 6]
    assert packing_metrics(packed, policy, settings(packing=True)) == {"padding": 0.0}
    assert packing_metrics(padded, policy, settings(packing=False)) == {}


def test_there_is_a_batch_for_each_rank(make_rollout) -> None:
    rollouts = [make_rollout(str(i), (1,), group=0) for i in range(4)]

    for packing in (True, False):
        alone = batches_of(rollouts, settings(packing=packing))
        shared = batches_of(rollouts, settings(packing=packing, ranks=2))
        assert (len(alone), len(shared)) == (1, 2)


def test_rollouts_without_gradient_have_batches_of_their_own(make_rollout) -> None:
    rewards = (1.0, 1.0, 1.0, 0.0, 0.0, 0.0)
    rollouts = [
        make_rollout(str(i), (1,), group=i // 2, reward=reward) for i, reward in enumerate(rewards)
    ]

    for packing in (True, False):
        alone = batches_of(rollouts, settings(packing=packing, token_budget=99))

        assert [set(batch.rollout_ids) for batch in alone] == [{"2", "3"}, {"0", "1", "4", "5"}]
