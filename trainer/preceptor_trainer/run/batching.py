"""A step's rollouts as the batches that a run's settings ask for."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

from preceptor_trainer.learner.policy import Policy
from preceptor_trainer.model.batch import TrainBatch, TrainRollout, make_batches
from preceptor_trainer.model.even_batches import make_even_batches
from preceptor_trainer.model.packed import padding_of
from preceptor_trainer.model.trunk import CausalModel
from preceptor_trainer.objectives import Objective, silent_in
from preceptor_trainer.run.config import RunConfig


def batches_of(rollouts: Sequence[TrainRollout], config: RunConfig) -> list[TrainBatch]:
    """Batches within the run's budget of tokens: even ones where rows are packed."""
    make = make_even_batches if config.packing else make_batches
    budget = config.token_budget
    if config.ranks > 1:
        # At least one for each rank, as far as there are rollouts.
        num_tokens = sum(len(row.prompt_ids) + row.num_tokens for row in rollouts)
        return make(rollouts, token_budget=min(budget, math.ceil(num_tokens / config.ranks)))
    batches = make(rollouts, token_budget=budget)
    learning = _with_gradient(batches, config.objective)
    parts = (
        [row for row in rollouts if row.rollout_id in learning],
        [row for row in rollouts if row.rollout_id not in learning],
    )
    if not all(parts):
        return batches
    # Apart, so that the learner computes the second part without gradient.
    return [batch for part in parts for batch in make(part, token_budget=budget)]


def _with_gradient(batches: Sequence[TrainBatch], objective: Objective) -> set[str]:
    return {
        batch.rollout_ids[int(row)]
        for batch, silent_B in zip(batches, silent_in(objective, batches), strict=True)
        for row in (~silent_B).nonzero()
    }


def packing_metrics(
    batches: Sequence[TrainBatch], policy: Policy, config: RunConfig
) -> dict[str, float]:
    """The share of padding among the places that the model computes, where rows are packed."""
    if not config.packing:
        return {}
    model = cast(CausalModel, policy.model)
    counts = [padding_of(policy.trunk, model, batch) for batch in batches]
    return {"padding": sum(pad for pad, _ in counts) / sum(places for _, places in counts)}
