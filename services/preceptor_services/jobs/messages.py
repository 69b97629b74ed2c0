"""What the gateway and the dispatchers say to each other, over HTTP under `/v1/internal`.

A **job** is a bundle of questions to one service that belong together: the unanswered members of
one group. The stream carries only its id and size; the questions stay with the gateway, so that a
broker that lost everything loses nothing.

1. A dispatcher takes jobs from the stream and **claims** them. Each claim raises the job's fence
   and returns the questions that are still wanted; what is done, cancelled or over its deadline
   comes back as `dropped` and is acknowledged at once.
2. It asks the service, checks the answers, and **reports** the results of all jobs of the call at
   once, each under its fence. What comes under an older fence is refused: somebody else has claimed
   that job since.
3. The gateway writes one blob, then the rows of all jobs in one transaction; then the dispatcher
   acknowledges the jobs.
"""

from __future__ import annotations

from typing import Literal

from preceptor_clients.contract.errors import ProblemDetails
from preceptor_clients.contract.schemas import (
    Answer,
    FeedbackAnswer,
    FeedbackQuery,
    Flag,
    Key,
    Name,
    PrefixAnswer,
    PrefixQuery,
    Request,
    Sha256,
)

JobKind = Literal["logprobs", "feedback"]


class ClaimRequest(Request):
    """`POST /v1/internal/claims`."""

    dispatcher: Key
    job_ids: tuple[Key, ...]


class ClaimedItem(Answer):
    """One question that is still wanted; exactly one of the two is set, by the job's kind."""

    answer_key: Sha256
    prefix: PrefixQuery | None = None
    feedback: FeedbackQuery | None = None


class ClaimedJob(Answer):
    """One job, now the claimant's until a higher fence is given out."""

    job_id: Key
    service: Name
    kind: JobKind
    fence: int
    timeout_ms: int
    """Time left until the last deadline of its members, in server time."""
    exclusive: bool
    """Must be asked as one call by itself."""
    items: tuple[ClaimedItem, ...]


class Claims(Answer):
    """Reply to `ClaimRequest`."""

    jobs: tuple[ClaimedJob, ...]
    dropped: tuple[Key, ...]
    """Nobody wants these any more: acknowledge them."""


class ItemResult(Answer):
    """What became of one question: exactly one of the four."""

    answer_key: Sha256
    prefix: PrefixAnswer | None = None
    feedback: FeedbackAnswer | None = None
    problem: ProblemDetails | None = None
    accepted: Flag = False


class JobReport(Request):
    """What became of one job."""

    job_id: Key
    fence: int
    results: tuple[ItemResult, ...] = ()
    final: Flag = True
    """False: the job goes back to the stream for another attempt, with the reason, not results."""
    reason: ProblemDetails | None = None


class ReportRequest(Request):
    """`POST /v1/internal/reports`: what became of the jobs of one call of a service."""

    dispatcher: Key
    latency_ms: float
    jobs: tuple[JobReport, ...]


class RefusedReport(Answer):
    """A job whose report counts for nothing: `stale-fence`, or what is wrong with it."""

    job_id: Key
    problem: ProblemDetails


class ReportReply(Answer):
    """Reply to `ReportRequest`; every job that is not named here was taken."""

    refused: tuple[RefusedReport, ...] = ()


class ServiceAddress(Answer):
    """Where a service listens, and the file with the key that it asks for."""

    name: Name
    url: str
    key_file: str
    added_at_runtime: bool = True
    """A caller has named its address, and not the settings."""


class Directory(Answer):
    """Reply to `GET /v1/internal/services`: everything that dispatchers serve."""

    services: tuple[ServiceAddress, ...]
