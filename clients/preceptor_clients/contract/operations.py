"""What operators of a deployment read and do: audit log, dead jobs, feedback that is withdrawn."""

from __future__ import annotations

from typing import Annotated

from pydantic import JsonValue, StringConstraints

from preceptor_clients.contract.errors import ProblemDetails
from preceptor_clients.contract.schemas import Answer, ItemState, Key, Name, Request, Sha256


class AuditEntry(Answer):
    """One act that changed who may do what, or what is asked and learnt from."""

    number: int
    """Its place in the log, counted from 1 without gaps."""
    at: float
    """Server time, seconds since the epoch."""
    actor: str
    """Name of the key or of the person; `gateway` for what it does by itself at its start."""
    action: str
    """What was done, such as `service.add`, `key.change` or `round.put`."""
    subject: str
    """What it was done to: the name of a service, key, person, round or weight version, the id of a
    job or feedback item."""
    detail: dict[str, JsonValue]
    """Further facts; never a secret."""
    previous_sha256: Sha256
    """`sha256` of the entry before; zeros for the first."""
    sha256: Sha256
    """Hash of all other fields, so that a changed, missing or inserted entry is found."""


class AuditPage(Answer):
    """`GET /v1/audit?after=NUMBER&limit=n`: the oldest first."""

    entries: tuple[AuditEntry, ...]
    """One page of them."""
    after: int | None = None
    """Value of `after` for the next page; None at the end."""


class DeadJob(Answer):
    """One job that was given up, with questions that have no answer."""

    job_id: Key
    """Its id."""
    service: Name
    """The expert or source that was asked."""
    kind: str
    """`logprobs` or `feedback`."""
    attempts: int
    """How often it was delivered."""
    created_at: float
    """Server time of its submission, seconds since the epoch."""
    questions: int
    """Questions that failed with it."""
    reason: ProblemDetails | None = None
    """Why its last delivery failed."""


class DeadJobs(Answer):
    """`GET /v1/jobs/dead?after=JOB&limit=n`: in the order of their ids."""

    jobs: tuple[DeadJob, ...]
    """One page of them."""
    after: Key | None = None
    """Value of `after` for the next page; None at the end."""


class Replayed(Answer):
    """Reply to `POST /v1/jobs/{job_id}/replay`."""

    job_id: Key
    """The job, which is queued again."""
    questions: int
    """Questions that are asked again; their tickets are live again, each for its time."""


class RetireItem(Request):
    """`POST /v1/feedback/retire`."""

    item_id: Key
    """Its id, as in the list of rollouts."""
    reason: Annotated[str, StringConstraints(min_length=1, max_length=2_000)]
    """Why it does not count any more; it is kept."""
    superseded_by: Key | None = None
    """An item of the same source that counts in its place; without one the judgement is missing."""


class RetiredItem(Answer):
    """A feedback item that does not count any more, and what had been made with it."""

    item_id: Key
    """Its id."""
    source: Name
    """The source that gave it."""
    state: ItemState
    """`retired`, or `superseded` where another item counts in its place."""
    reason: str
    """Why, as it was said first."""
    superseded_by: Key | None = None
    """The item that counts in its place."""
    targets: int
    """Recorded targets from experts that had it in view; they stay as they are."""
