"""The rows of each step: epochs in an order of their own, one after the other without a gap.

A step's rows are a pure function of seed and step. A resumed run therefore goes on with exactly the
rows that it has not consumed.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from preceptor_trainer.data.rows import Row, Rows
from preceptor_trainer.kit.seeding import derived_seed


@dataclass(frozen=True, kw_only=True)
class Epochs:
    """Every row once in each epoch; a step may take the end of one and the start of the next."""

    rows: Rows
    """The training rows."""
    seed: int
    """Decides the order of every epoch."""
    per_step: int
    """Rows of one step."""
    shuffle: bool = True
    """Whether each epoch has its own random order, or all have the order of the file."""

    def __post_init__(self) -> None:
        if not 1 <= self.per_step <= len(self.rows):
            raise ValueError(
                f"per_step: {self.per_step} is outside 1 to {len(self.rows)}, the number of rows"
            )

    def __call__(self, step: int) -> Sequence[Row]:
        """The rows of a step."""
        first = step * self.per_step
        places = [divmod(i, len(self.rows)) for i in range(first, first + self.per_step)]
        orders = {epoch: self._order(epoch) for epoch in {epoch for epoch, _ in places}}
        return [self.rows[orders[epoch][place]] for epoch, place in places]

    def _order(self, epoch: int) -> list[int]:
        order = list(range(len(self.rows)))
        if self.shuffle:
            random.Random(derived_seed(self.seed, "epoch", epoch)).shuffle(order)
        return order
