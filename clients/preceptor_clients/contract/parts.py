"""Splits a step's records into parts that each fit into one request. Pure.

A gateway accepts 64 MiB and a limited number of arrays per request, and a step of 600,000 answered
positions with 32 entries each is more than twice that. Parts stay well below the limit, also below
the 16 MiB of a frame's header, which holds the texts, so that a gateway's work on one is short.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, TypeVar, cast

import numpy as np

from preceptor_clients.contract.calls import fill_calls
from preceptor_clients.contract.schemas import Credit, Credits, Records

MAX_PART_BYTES: Final = 8 << 20
MAX_PART_RECORDS: Final = 2048
_OVERHEAD: Final = 512
"""Approximate bytes of a record beside its arrays and texts."""
_T = TypeVar("_T")


def parts_of(records: Records) -> list[Records]:
    """Rollouts, then what refers to them; unchanged if they fit together."""
    rollouts, targets = fitting(records.rollouts), fitting(records.targets)
    items = fitting(records.feedback)
    one_each = all(len(parts) <= 1 for parts in (rollouts, targets, items))
    if one_each and _size(records) <= MAX_PART_BYTES:
        return [records]
    return [
        *(Records(rollouts=tuple(part)) for part in rollouts),
        *(Records(feedback=tuple(part)) for part in items),
        *(Records(targets=tuple(part)) for part in targets),
    ]


def halves_of(records: Records) -> list[Records]:
    """The records by kind, rollouts first, or in two parts; empty for a single record."""
    kinds = [
        Records(rollouts=records.rollouts),
        Records(feedback=records.feedback),
        Records(targets=records.targets),
    ]
    filled = [part for part in kinds if part.rollouts or part.feedback or part.targets]
    if len(filled) > 1:
        return filled
    rollouts, items, targets = records.rollouts, records.feedback, records.targets
    middle = max(len(rollouts), len(items), len(targets)) // 2
    if not middle:
        return []
    return [
        Records(rollouts=rollouts[:middle], feedback=items[:middle], targets=targets[:middle]),
        Records(rollouts=rollouts[middle:], feedback=items[middle:], targets=targets[middle:]),
    ]


def parts_of_credits(consumed: Sequence[Credit]) -> list[Credits]:
    """A step's credits, in their order."""
    return [Credits(consumed=tuple(part)) for part in fitting(consumed)]


def fitting(records: Sequence[_T]) -> list[list[_T]]:
    """Lists of records that each fit into a request; a larger record gets its own list."""
    return fill_calls(
        records, size=lambda r: (1, _size(r)), most=(MAX_PART_RECORDS, MAX_PART_BYTES)
    )


def _size(value: Any) -> int:
    """Approximate bytes of a message in a frame."""
    if isinstance(value, np.ndarray):
        return cast("np.ndarray", value).nbytes
    if isinstance(value, str):
        return len(value.encode("utf-8", "replace"))
    if isinstance(value, dict):
        return sum(map(_size, cast("dict[str, Any]", value).values())) + _OVERHEAD
    if isinstance(value, (list, tuple)):
        return sum(map(_size, cast("Sequence[Any]", value)))
    fields = getattr(value, "__dict__", None)
    return 8 if fields is None else _size(cast("dict[str, Any]", fields))
