"""Messages between the gateway and the dispatchers, over HTTP under `/v1/internal`.

A **job** is a bundle of questions to one service that belong together: the unanswered members of
one group. The stream carries only its id and size; the questions stay in the gateway's database,
so no question is lost if the broker loses its data.

1. A dispatcher takes jobs from the stream and **claims** them. Each claim raises the job's fence
   and returns the questions that are still wanted; what is done, cancelled or over its deadline
   comes back as `dropped` and is acknowledged at once.
2. It asks the service, checks the answers, and **reports** the results of all jobs of the call at
   once, each under its fence. The gateway refuses a report with an older fence, because another
   dispatcher has claimed the job since.
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
    """One question that is still wanted; the job's kind decides which query is set."""

    answer_key: Sha256
    prefix: PrefixQuery | None = None
    feedback: FeedbackQuery | None = None


class ClaimedJob(Answer):
    """One job, claimed until the gateway issues a higher fence for it."""

    job_id: Key
    service: Name
    kind: JobKind
    fence: int
    timeout_ms: int
    """Time left until the last deadline of its members, in server time."""
    exclusive: bool
    """The job must be sent as one call, without other jobs."""
    request_id: str | None = None
    """Id of the request that it was made for."""
    items: tuple[ClaimedItem, ...]


class Claims(Answer):
    """Reply to `ClaimRequest`."""

    jobs: tuple[ClaimedJob, ...]
    dropped: tuple[Key, ...]
    """Jobs that are no longer wanted: acknowledge them."""


class ItemResult(Answer):
    """The outcome of one question: exactly one of the four fields is set."""

    answer_key: Sha256
    prefix: PrefixAnswer | None = None
    feedback: FeedbackAnswer | None = None
    problem: ProblemDetails | None = None
    accepted: Flag = False


class JobReport(Request):
    """The outcome of one job."""

    job_id: Key
    fence: int
    results: tuple[ItemResult, ...] = ()
    final: Flag = True
    """False: the job goes back to the stream for another attempt, with the reason, not results."""
    reason: ProblemDetails | None = None


class ReportRequest(Request):
    """`POST /v1/internal/reports`: the outcomes of the jobs of one call of a service."""

    dispatcher: Key
    latency_ms: float
    jobs: tuple[JobReport, ...]


class RefusedReport(Answer):
    """A job whose report was refused: `stale-fence`, or the fault of the report."""

    job_id: Key
    problem: ProblemDetails


class ReportReply(Answer):
    """Reply to `ReportRequest`; the reports of all other jobs were accepted."""

    refused: tuple[RefusedReport, ...] = ()


class ServiceAddress(Answer):
    """The address of a service, and the file with its key."""

    name: Name
    url: str
    key_file: str
    added_at_runtime: bool = True
    """The address comes from a caller, not from the settings."""


class Directory(Answer):
    """Reply to `GET /v1/internal/services`: all services that dispatchers call."""

    services: tuple[ServiceAddress, ...]
