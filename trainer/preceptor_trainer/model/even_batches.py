"""A step's rollouts in batches of as many real tokens each, for rows without padding.

    batches = make_even_batches(rollouts, token_budget=8192)

Padding costs nothing where rows are packed, so lengths may be mixed. Batches of equal size are as
few as the budget allows, and none of them is a small rest.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import groupby

from preceptor_trainer.model.batch import TrainBatch, TrainRollout, collate
from preceptor_trainer.model.packing import spread


def make_even_batches(rollouts: Sequence[TrainRollout], *, token_budget: int) -> list[TrainBatch]:
    """Splits one step's rollouts into batches of at most `token_budget` tokens, padding not
    counted.

    Groups stay together where they fit, because a group in one call needs no extra pass for its
    baselines. The order depends only on the rollouts.

    Args:
        rollouts: The whole step.
        token_budget: Tokens of all rows with their prompts; a longer single row gets a batch of
            its own.

    Returns:
        Batches that hold every rollout once, the largest first: one that does not fit into memory
        fails at the start.
    """
    if token_budget < 1:
        raise ValueError(f"token_budget must be positive, not {token_budget}")
    ordered = sorted(rollouts, key=lambda r: r.group)
    units = [
        unit
        for _, rows in groupby(ordered, key=lambda r: r.group)
        for unit in _split(list(rows), token_budget)
    ]
    units.sort(key=_tokens, reverse=True)
    alone = [unit for unit in units if _tokens(unit) > token_budget]
    return [collate(rows) for rows in (*alone, *_evenly(units[len(alone) :], token_budget))]


def _evenly(units: Sequence[list[TrainRollout]], token_budget: int) -> list[list[TrainRollout]]:
    """As few batches as the budget allows, largest first."""
    sizes = [_tokens(unit) for unit in units]
    batches: list[list[TrainRollout]] = []
    for num_batches in range(math.ceil(sum(sizes) / token_budget), len(units) + 1):
        batches = [
            [row for place in places for row in units[place]]
            for places in spread(sizes, num_batches)
        ]
        if all(_tokens(rows) <= token_budget for rows in batches):
            break
    return sorted(batches, key=_tokens, reverse=True)


def _tokens(rows: Sequence[TrainRollout]) -> int:
    return sum(len(row.prompt_ids) + row.num_tokens for row in rows)


def _split(rows: Sequence[TrainRollout], token_budget: int) -> list[list[TrainRollout]]:
    """A group as one piece if it fits, else in as few pieces of whole rows as its order allows."""
    pieces: list[list[TrainRollout]] = [[]]
    for row in rows:
        if pieces[-1] and _tokens([*pieces[-1], row]) > token_budget:
            pieces.append([])
        pieces[-1].append(row)
    return pieces
