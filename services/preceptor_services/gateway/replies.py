"""Replies that only tools and tests read."""

from __future__ import annotations

from preceptor_clients.schemas import Answer, Key, Name


class TargetPlace(Answer):
    """One target."""

    id: Key
    num_tokens: int


class TargetPage(Answer):
    """`GET /v1/runs/{run}/targets?after=ID&limit=n`: in the order of their ids."""

    targets: tuple[TargetPlace, ...]
    after: str | None = None
    """Ask again with this one; None at the end."""


class Accounting(Answer):
    """`GET /v1/runs/{run}/accounting`, from SQL."""

    run: Name
    lineage: Name | None
    """The newest life, on which the counts below stand."""
    lineages: int
    steps: int
    """Surviving."""
    superseded_steps: int
    rollouts: int
    """Of all lives."""
    targets: int
    """Of all lives."""
    consumed: int
    """Rollouts that surviving steps used."""
    consumed_twice: int
    """Of these, how many more than once; anything but 0 is a fault."""
