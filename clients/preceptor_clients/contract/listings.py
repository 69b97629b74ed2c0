"""Lists of the gateway's records: runs, rollouts, targets and those in quarantine, in pages.

A page's `after` is the parameter for the next page; None at the end. Steps are indices here, as in
ids: the first step of a run is 0. Texts for people count steps from 1.
"""

from __future__ import annotations

from pydantic import Field, JsonValue

from preceptor_clients.contract.schemas import Answer, ItemState, Key, Name


class RunPlace(Answer):
    """One run and the number of its records."""

    run: Name
    """Its name."""
    seed: int
    """The seed of all its randomness."""
    created_at: float
    """Seconds since the epoch."""
    lineages: int
    """How many times a trainer began or continued it."""
    steps: int
    """Steps taken; a step that was repeated counts once."""
    rollouts: int
    """Rollouts of all its lineages."""
    targets: int
    """Targets of all its lineages."""


class RunPage(Answer):
    """`GET /v1/runs?after=RUN&limit=n`: the newest first."""

    runs: tuple[RunPlace, ...]
    """One page of them."""
    after: Name | None = None
    """Value of `after` for the next page; None at the end."""


class LineagePlace(Answer):
    """One life of a run."""

    lineage: Name
    """Its name within the run."""
    parent: Name | None = None
    """The lineage that it continues; None for the first."""
    from_step: int
    """Index of its first step."""
    created_at: float
    """Seconds since the epoch."""
    settings: dict[str, JsonValue] = Field(default_factory=dict)
    """Values that differ from the run's record, by dotted name."""
    versions: dict[str, str] = Field(default_factory=dict)
    """Versions of the software, by name."""


class RunDetails(Answer):
    """`GET /v1/runs/{run}`: the run's record and its lives, the oldest first."""

    run: Name
    """Its name."""
    config: dict[str, JsonValue]
    """The resolved configuration of the first lineage."""
    seed: int
    """The seed of all its randomness."""
    versions: dict[str, str]
    """Versions of the software of the first lineage, by name."""
    created_at: float
    """Seconds since the epoch."""
    lineages: tuple[LineagePlace, ...]
    """Its lineages, the oldest first."""


class ItemPlace(Answer):
    """One feedback item of a rollout."""

    id: Key
    """Its id."""
    source: Name
    """The source that gave it."""
    score: float | None = None
    """Its score; None where it has none."""
    error: str | None = None
    """Why the judgement failed."""
    state: ItemState = "standing"
    """An item that is `superseded` or `retired` does not count any more."""
    state_reason: str | None = None
    """Why it does not stand."""
    superseded_by: Key | None = None
    """The item that counts in its place."""


class RolloutPlace(Answer):
    """One rollout, its judgement, and the target that was made for it."""

    id: Key
    """Its id."""
    lineage: Name
    """The lineage that drew it."""
    step: int
    """Index of the step that it was drawn for."""
    problem_id: Key
    """The problem that was attempted."""
    group_id: Key
    """Attempts at the same problem in the same step share it."""
    weights: str
    """Version of the policy that drew it."""
    finish_reason: str
    """`stop` at an end token, `length` where it was cut."""
    num_tokens: int
    """Length of the response."""
    response_text: str
    """The response as text."""
    score: float | None = None
    """Sum of its sources' scores; None where none gave a score."""
    solved: bool | None = None
    """Whether the score reaches the task's `solved_at`; None without a score."""
    target_id: Key | None = None
    """Its target; None without one."""
    feedback: tuple[ItemPlace, ...] = ()
    """Its feedback items, also those that do not count any more."""


class RolloutPage(Answer):
    """`GET /v1/runs/{run}/rollouts?step=s&solved=b&after=ID&limit=n`: in the order of steps."""

    rollouts: tuple[RolloutPlace, ...]
    """One page of them."""
    after: Key | None = None
    """Value of `after` for the next page; None at the end."""


class TargetPlace(Answer):
    """One target and the rollout that it is for."""

    id: Key
    """Its id."""
    num_tokens: int
    """Length of the response."""
    rollout_id: Key
    """The rollout that it is for."""
    lineage: Name
    """The lineage that drew the rollout."""
    step: int
    """Index of the step that the rollout was drawn for."""
    problem_id: Key
    """The problem that was attempted."""
    score: float | None = None
    """Score of the rollout; None where no source gave one."""
    solved: bool | None = None
    """Whether the score reaches the task's `solved_at`; None without a score."""


class TargetPage(Answer):
    """`GET /v1/runs/{run}/targets?step=s&solved=b&after=ID&limit=n`: in the order of their ids."""

    targets: tuple[TargetPlace, ...]
    """One page of them."""
    after: Key | None = None
    """Value of `after` for the next page; None at the end."""


class QuarantinedTarget(Answer):
    """A target that was built from an answer that may be wrong."""

    id: Key
    """Its id."""
    rollout_id: Key
    """The rollout that it is for."""


class Quarantine(Answer):
    """`GET /v1/experts/{name}/quarantine?after=ID&limit=n`: in the order of the targets' ids."""

    targets: tuple[QuarantinedTarget, ...]
    """One page of them."""
    after: str | None = None
    """Value of `after` for the next page; None at the end."""
