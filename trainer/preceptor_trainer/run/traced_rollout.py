"""One token that is worth tracing, of a run without targets.

Of a group with right and wrong attempts before other groups, because there the reward taught
something, and of a solved attempt: its token that the student found least likely.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from preceptor_trainer.collect.labelling import Labelled
from preceptor_trainer.collect.rollouts import Attempt, Rollout

TRACED_FILE: Final = "traced_rollout.json"


@dataclass(frozen=True, kw_only=True)
class Traced:
    """A token of a rollout."""

    rollout_id: str
    position: int
    interest: int
    """2 in a group with right and wrong attempts, 1 in one with different scores, else 0."""


def choose_traced(labelled: Sequence[Labelled]) -> Traced | None:
    """The token of a step; of equals, the first attempt with a longer response.

    None where the student wrote no token.
    """
    groups: defaultdict[str, list[Attempt]] = defaultdict(list)
    for row in labelled:
        groups[row.attempt.rollout.group_id].append(row.attempt)
    ranked = [
        (_interest(group), attempt)
        for group in groups.values()
        for attempt in group
        if attempt.rollout.owned.any()
    ]
    if not ranked:
        return None
    interest, chosen = max(ranked, key=_rank)
    rollout = chosen.rollout
    return Traced(rollout_id=rollout.rollout_id, position=_least_likely(rollout), interest=interest)


def read_traced(run_dir: Path) -> Traced | None:
    """What earlier steps of the run have kept."""
    path = run_dir / TRACED_FILE
    return Traced(**json.loads(path.read_text())) if path.exists() else None


def _interest(group: Sequence[Attempt]) -> int:
    if any(attempt.solved for attempt in group) and any(attempt.failed for attempt in group):
        return 2
    return int(len({attempt.score for attempt in group} - {None}) > 1)


def _rank(one: tuple[int, Attempt]) -> tuple[int, bool, int]:
    interest, attempt = one
    return interest, attempt.solved, min(len(attempt.rollout.response_ids), 24)


def _least_likely(rollout: Rollout) -> int:
    return int(np.where(rollout.owned, rollout.behaviour_logprobs, np.inf).argmin())
