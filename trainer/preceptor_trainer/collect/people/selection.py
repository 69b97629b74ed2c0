"""Policies that select rollouts for people from one step's labelled rollouts. Pure.

    PeopleConfig(select=AnyOf((Failed(), Disagreement(at_least=0.5))))

A policy gives each rollout a priority; the round's budget then takes the highest. Rollouts can also
be added manually by the queue's API (`POST /v1/corrections/rollouts`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import torch

from preceptor_clients.targets.builder import TargetComponent
from preceptor_trainer.collect.labelling import Labelled


class Wish(NamedTuple):
    """The priority of a rollout's correction, and the reason."""

    priority: float
    reason: str


class Selection(Protocol):
    """From one step's rollouts to a wish or None for each, in order."""

    def __call__(
        self, labelled: Sequence[Labelled], generator: torch.Generator
    ) -> list[Wish | None]: ...


@dataclass(frozen=True, kw_only=True)
class Failed:
    """Failed attempts; those of problems that no sibling solved come first."""

    per_problem: int = 1
    """Most failed siblings of one problem, since they are similar."""

    def __call__(
        self, labelled: Sequence[Labelled], generator: torch.Generator
    ) -> list[Wish | None]:
        """A failed rollout of an unsolved problem has priority 2, of a solved one 1."""
        attempts = [row.attempt for row in labelled]
        solved = {attempt.rollout.group for attempt in attempts if attempt.solved}
        taken: dict[int, int] = {}
        wishes: list[Wish | None] = []
        for attempt in attempts:
            group = attempt.rollout.group
            wanted = attempt.failed and taken.get(group, 0) < self.per_problem
            taken[group] = taken.get(group, 0) + wanted
            wishes.append(Wish(1.0 if group in solved else 2.0, "failed") if wanted else None)
        return wishes


@dataclass(frozen=True, kw_only=True)
class Disagreement:
    """Rollouts on which experts differ, by the largest total variation between two at a
    position."""

    at_least: float = 0.5
    """Smallest total variation, 0 to 1."""

    def __call__(
        self, labelled: Sequence[Labelled], generator: torch.Generator
    ) -> list[Wish | None]:
        """The priority is the total variation."""
        found = [disagreement(row) for row in labelled]
        return [Wish(d, "disagreement") if d >= self.at_least else None for d in found]


@dataclass(frozen=True, kw_only=True)
class Uncertainty:
    """Rollouts with a high mean surprise of the student over its own tokens."""

    at_least: float = 0.5
    """Nats per token."""

    def __call__(
        self, labelled: Sequence[Labelled], generator: torch.Generator
    ) -> list[Wish | None]:
        """The priority is the mean surprise."""
        found = [_surprise(row) for row in labelled]
        return [Wish(s, "uncertainty") if s >= self.at_least else None for s in found]


@dataclass(frozen=True, kw_only=True)
class RandomShare:
    """A random share, as the control for every other policy."""

    share: float = 0.1
    """Probability that a rollout is chosen."""

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise ValueError(f"share must be in (0, 1], not {self.share}")

    def __call__(
        self, labelled: Sequence[Labelled], generator: torch.Generator
    ) -> list[Wish | None]:
        """Priorities are random too, so that a small budget takes a random choice."""
        drawn = torch.rand(2, len(labelled), generator=generator)
        return [
            Wish(float(priority), "random") if float(chance) < self.share else None
            for chance, priority in drawn.T
        ]


@dataclass(frozen=True, kw_only=True)
class AnyOf:
    """Rollouts that any of several policies selects, with all reasons."""

    policies: tuple[Selection, ...]
    """The policies; the highest priority counts."""

    def __post_init__(self) -> None:
        if not self.policies:
            raise ValueError("policies: is empty")

    def __call__(
        self, labelled: Sequence[Labelled], generator: torch.Generator
    ) -> list[Wish | None]:
        """The highest priority counts."""
        per_policy = [policy(labelled, generator) for policy in self.policies]
        return [
            _joined([w for w in wishes if w is not None])
            for wishes in zip(*per_policy, strict=True)
        ]


def _joined(wishes: Sequence[Wish]) -> Wish | None:
    if not wishes:
        return None
    return Wish(max(w.priority for w in wishes), ", ".join(w.reason for w in wishes))


def disagreement(row: Labelled) -> float:
    """The largest total variation between two experts at one position; 0 with fewer than two.

    Entries outside an expert's list are in its tail and are assumed equal, so this is a lower
    bound.
    """
    if row.target is None:
        return 0.0
    components = row.target.components
    return max(
        (
            _total_variation(a, b, int(t))
            for n, a in enumerate(components)
            for b in components[n + 1 :]
            for t in np.flatnonzero((a.weight_T > 0) & (b.weight_T > 0))
        ),
        default=0.0,
    )


def _total_variation(a: TargetComponent, b: TargetComponent, t: int) -> float:
    of_a, of_b = _probabilities(a, t), _probabilities(b, t)
    shared = sum(min(of_a[i], of_b[i]) for i in of_a.keys() & of_b.keys())
    # An entry that only one expert lists may be in the other's tail.
    only_a = sum(p for i, p in of_a.items() if i not in of_b)
    only_b = sum(p for i, p in of_b.items() if i not in of_a)
    tails = min(only_a + float(a.tail_T[t]), float(b.tail_T[t])) if only_a else 0.0
    tails += min(only_b, float(a.tail_T[t]))
    return float(min(1.0, max(0.0, 1.0 - shared - tails)))


def _probabilities(component: TargetComponent, t: int) -> dict[int, float]:
    return {
        int(i): float(p)
        for i, p in zip(component.ids_TK[t], component.probs_TK[t], strict=True)
        if i >= 0
    }


def _surprise(row: Labelled) -> float:
    rollout = row.attempt.rollout
    if rollout.given:
        return 0.0
    return float(-np.mean(rollout.behaviour_logprobs[np.asarray(rollout.owned, np.bool_)]))
