"""Held-out rows: taken from the training rows, or checked against them."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np

from preceptor_trainer.data.rows import Row, Rows
from preceptor_trainer.kit.seeding import derived_seed

Overlap = Literal["refuse", "drop", "allow"]
_SHOWN = 5


def hold_out(rows: Rows, share: float) -> tuple[Rows, Rows]:
    """Training rows and held-out rows.

    A row's place is decided by its id alone, so it is the same for every seed and every order.

    Raises:
        ValueError: one of the two would be empty.
    """
    number = round(share * len(rows))
    if not 0 < number < len(rows):
        raise ValueError(f"{share:g} of {len(rows)} rows leaves {number} held out")
    held = {row.id for row in sorted(rows, key=_place)[:number]}
    return (
        Rows.of(rows.source, (row for row in rows if row.id not in held), rows.dropped),
        Rows.of(f"{share:g} of {rows.source}", (row for row in rows if row.id in held)),
    )


def hold_out_as_datasets(rows: Rows, share: float, seed: int) -> tuple[Rows, Rows]:
    """Training rows and held-out rows as `train_test_split` of `datasets` draws them.

    The papers' splits are such: `test_size=0.1, seed=42`. Unlike `hold_out` it depends on the order
    of the rows.

    Raises:
        ValueError: one of the two would be empty.
    """
    held, kept = math.ceil(share * len(rows)), math.floor((1 - share) * len(rows))
    if not (held and kept):
        raise ValueError(f"{share:g} of {len(rows)} rows leaves {held} held out")
    order = np.random.default_rng(seed).permutation(len(rows))
    return (
        Rows.of(rows.source, (rows[int(i)] for i in order[held : held + kept]), rows.dropped),
        Rows.of(f"{share:g} of {rows.source}", (rows[int(i)] for i in order[:held])),
    )


def at_most(rows: Rows, number: int | None) -> Rows:
    """The rows, or `number` of them, which their ids choose."""
    if number is None or number >= len(rows):
        return rows
    chosen = {row.id for row in sorted(rows, key=_place)[:number]}
    return Rows.of(rows.source, (row for row in rows if row.id in chosen), rows.dropped)


def apart(train: Rows, held_out: Rows, overlap: Overlap) -> Rows:
    """The training rows, of which none is held out too.

    Args:
        train: Training rows.
        held_out: Held-out rows.
        overlap: What happens to a training row with the id or the prompt of a held-out row.

    Raises:
        ValueError: there are such rows and they are refused; the message names them.
    """
    pairs = _same(train, held_out)
    if not pairs or overlap == "allow":
        return train
    if overlap == "drop":
        why = f"{train.source}: rows dropped because they are held out too: {len(pairs)}"
        kept = train.without((row for row, _, _ in pairs), why)
        if not len(kept):
            raise ValueError(f"{train.source}: every row is held out too")
        return kept
    listed = "".join(f"\n  {row.where} and {other.where}: {why}" for row, other, why in
                     pairs[:_SHOWN])  # fmt: skip
    more = f"\n  and {len(pairs) - _SHOWN} more" if len(pairs) > _SHOWN else ""
    raise ValueError(
        f"{len(pairs)} training rows are held out too, so the result would not tell learning from "
        f'remembering:{listed}{more}\nremove them, or set data.overlap = "drop"'
    )


def _same(train: Rows, held_out: Rows) -> list[tuple[Row, Row, str]]:
    by_id = {row.id: row for row in held_out}
    by_prompt = {row.prompt_text: row for row in held_out}
    pairs: list[tuple[Row, Row, str]] = []
    for row in train:
        if row.prompt_text in by_prompt:
            pairs.append((row, by_prompt[row.prompt_text], "the same prompt"))
        elif row.id in by_id:
            pairs.append((row, by_id[row.id], f"the same id {row.id!r}"))
    return pairs


def _place(row: Row) -> int:
    return derived_seed("held out", row.id)
