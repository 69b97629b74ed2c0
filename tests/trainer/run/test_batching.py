"""Batches and their padding, as a run's settings ask for them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from preceptor_trainer.model.packed import packed_contexts
from preceptor_trainer.run.batching import batches_of, packing_metrics


def settings(*, packing: bool) -> Any:
    return SimpleNamespace(packing=packing, token_budget=12)


def test_packed_batches_have_equal_numbers_of_tokens_and_tell_their_padding(make_rollout) -> None:
    rollouts = [make_rollout(str(i), (1,) * n, group=i) for i, n in enumerate((7, 7, 3, 3))]
    policy: Any = SimpleNamespace(trunk=packed_contexts, model=None)

    packed = batches_of(rollouts, settings(packing=True))
    padded = batches_of(rollouts, settings(packing=False))

    assert [int(batch.response_mask_BT.sum()) for batch in packed] == [10, 10]
    assert [int(batch.response_mask_BT.sum()) for batch in padded] == [7, 7, 6]
    assert packing_metrics(packed, policy, settings(packing=True)) == {"padding": 0.0}
    assert packing_metrics(padded, policy, settings(packing=False)) == {}
