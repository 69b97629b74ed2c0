"""The steps of a run that survive. Pure.

Each start of a trainer begins a lineage; a resumed one supersedes its parent's steps from
`from_step` on. The surviving lineage of a run is its newest lineage with the remaining steps of
its ancestors.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from preceptor_services.store.provenance.runs import LineageRow

_OPEN: Final = float("inf")


def surviving_ends(lineages: Mapping[str, LineageRow], tip: str) -> dict[str, float]:
    """For `tip` and each of its ancestors: the steps below this number survive."""
    ends: dict[str, float] = {}
    end, name = _OPEN, tip
    while name:
        ends[name] = end
        lineage = lineages[name]
        end = min(end, lineage.from_step)
        name = lineage.parent or ""
    return ends


def survives(ends: Mapping[str, float], lineage: str, step: int) -> bool:
    """Whether this step is on the surviving lineage."""
    return lineage in ends and step < ends[lineage]


def newest(lineages: Mapping[str, LineageRow]) -> str | None:
    """The lineage that began last."""
    return max(lineages.values(), key=lambda lineage: lineage.serial).name if lineages else None
