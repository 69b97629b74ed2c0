"""Lists of the gateway's records: runs, rollouts and targets, a page at a time.

A page's `after` is the parameter for the next page; None at the end. Steps are indices here, as in
ids: the first step of a run is 0. Texts for people count steps from 1.
"""

from __future__ import annotations

from pydantic import Field, JsonValue

from preceptor_clients.contract.schemas import Answer, Key, Name


class RunPlace(Answer):
    """One run and the number of its records."""

    run: Name
    seed: int
    created_at: float
    """Seconds since the epoch."""
    lineages: int
    """How many times a trainer began or continued it."""
    steps: int
    """Steps taken; a step that was repeated counts once."""
    rollouts: int
    targets: int


class RunPage(Answer):
    """`GET /v1/runs?after=RUN&limit=n`: the newest first."""

    runs: tuple[RunPlace, ...]
    after: Name | None = None


class LineagePlace(Answer):
    """One life of a run."""

    lineage: Name
    parent: Name | None = None
    from_step: int
    created_at: float
    settings: dict[str, JsonValue] = Field(default_factory=dict)
    """Values that differ from the run's record, by dotted name."""
    versions: dict[str, str] = Field(default_factory=dict)


class RunDetails(Answer):
    """`GET /v1/runs/{run}`: the run's record and its lives, the oldest first."""

    run: Name
    config: dict[str, JsonValue]
    seed: int
    versions: dict[str, str]
    created_at: float
    lineages: tuple[LineagePlace, ...]


class RolloutPlace(Answer):
    """One rollout, its judgement, and the target that was made for it."""

    id: Key
    lineage: Name
    step: int
    problem_id: Key
    group_id: Key
    weights: str
    finish_reason: str
    num_tokens: int
    response_text: str
    score: float | None = None
    """Sum of its sources' scores; None where none gave a score."""
    solved: bool | None = None
    """Whether the score reaches the task's `solved_at`; None without a score."""
    target_id: Key | None = None


class RolloutPage(Answer):
    """`GET /v1/runs/{run}/rollouts?step=s&solved=b&after=ID&limit=n`: in the order of steps."""

    rollouts: tuple[RolloutPlace, ...]
    after: Key | None = None


class TargetPlace(Answer):
    """One target and the rollout that it is for."""

    id: Key
    num_tokens: int
    rollout_id: Key
    lineage: Name
    step: int
    problem_id: Key
    score: float | None = None
    solved: bool | None = None


class TargetPage(Answer):
    """`GET /v1/runs/{run}/targets?step=s&solved=b&after=ID&limit=n`: in the order of their ids."""

    targets: tuple[TargetPlace, ...]
    after: Key | None = None
