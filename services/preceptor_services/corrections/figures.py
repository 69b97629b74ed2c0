"""Metrics of the queue over all rounds: items that wait for people, and versions handed in."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple, get_args

from preceptor_clients.contract.corrections import Decision, ItemState
from preceptor_services.kit.clock import Clock
from preceptor_services.store.corrections import items as items
from preceptor_services.store.corrections import versions as versions
from preceptor_services.store.database import Database


class CorrectionFigures(NamedTuple):
    """Counted from the rows at one moment; every state and decision is present, also with 0."""

    items: Mapping[str, float]
    """By state."""
    versions: Mapping[str, float]
    """Versions handed in, by decision."""
    claims: float
    """In force."""


UNKNOWN: Final = CorrectionFigures(
    items=dict.fromkeys(get_args(ItemState), math.nan),
    versions=dict.fromkeys(get_args(Decision), math.nan),
    claims=math.nan,
)
"""The figures while the database is unreachable."""


@dataclass(frozen=True, kw_only=True)
class Figures:
    database: Database
    clock: Clock

    async def now(self) -> CorrectionFigures:
        """Counts items, claims and versions now."""
        async with self.database.read() as conn:
            by_round = await items.count_by_state(conn)
            by_decision = await versions.count_by_decision(conn)
            claimed = await items.count_active_claims(conn, self.clock.now())
        by_state: Counter[str] = Counter()
        for (_, state), number in by_round.items():
            by_state[state] += number
        return CorrectionFigures(
            items={state: by_state[state] for state in get_args(ItemState)},
            versions={d: by_decision.get(d, 0) for d in get_args(Decision)},
            claims=sum(claimed.values()),
        )
