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
    """Name of the dispatcher."""
    job_ids: tuple[Key, ...]
    """Jobs that it took from the stream."""


class ClaimedItem(Answer):
    """One question that is still wanted; the job's kind decides which query is set."""

    answer_key: Sha256
    """Key of the answer."""
    prefix: PrefixQuery | None = None
    """The query to an expert."""
    feedback: FeedbackQuery | None = None
    """The query to a source."""


class ClaimedJob(Answer):
    """One job, claimed until the gateway issues a higher fence for it."""

    job_id: Key
    """Id of the job."""
    service: Name
    """Name of the expert or source to be called."""
    kind: JobKind
    """Which of the service's routes is called."""
    fence: int
    """Number of this claim; a report under a lower number is refused."""
    timeout_ms: int
    """Time left until the last deadline of its members, in server time."""
    exclusive: bool
    """The job must be sent as one call, without other jobs."""
    request_id: str | None = None
    """Id of the request that it was made for."""
    items: tuple[ClaimedItem, ...]
    """The questions that are still wanted."""


class ClaimedJobs(Answer):
    """Reply to `ClaimRequest`."""

    jobs: tuple[ClaimedJob, ...]
    """The claimed jobs."""
    dropped: tuple[Key, ...]
    """Jobs that are no longer wanted: acknowledge them."""


class ItemResult(Answer):
    """The outcome of one question: exactly one of the four fields is set."""

    answer_key: Sha256
    """Key of the answer."""
    prefix: PrefixAnswer | None = None
    """The expert's answer."""
    feedback: FeedbackAnswer | None = None
    """The source's answer."""
    problem: ProblemDetails | None = None
    """Why there is no answer."""
    accepted: Flag = False
    """True: the expert promised to answer later."""


class JobReport(Request):
    """The outcome of one job."""

    job_id: Key
    """Id of the job."""
    fence: int
    """Number of the claim that the job was asked under."""
    results: tuple[ItemResult, ...] = ()
    """One for each question."""
    final: Flag = True
    """False: the job goes back to the stream for another attempt, with the reason, not results."""
    reason: ProblemDetails | None = None
    """Why the job goes back."""


class ReportRequest(Request):
    """`POST /v1/internal/reports`: the outcomes of the jobs of one call of a service."""

    dispatcher: Key
    """Name of the dispatcher."""
    latency_ms: float
    """How long the service took."""
    jobs: tuple[JobReport, ...]
    """The jobs of the call."""


class RefusedReport(Answer):
    """A job whose report was refused: `stale-fence`, or the fault of the report."""

    job_id: Key
    """Id of the job."""
    problem: ProblemDetails
    """Why its report was refused."""


class ReportReply(Answer):
    """Reply to `ReportRequest`; the reports of all other jobs were accepted."""

    refused: tuple[RefusedReport, ...] = ()
    """Jobs whose reports were refused."""


class ServiceAddress(Answer):
    """The address of a service, and the file with its key."""

    name: Name
    """Name of the service in the deployment."""
    url: str
    """Its address."""
    key_file: str
    """File with its key, on the dispatcher's machine."""
    added_at_runtime: bool = True
    """The address comes from a caller, not from the settings."""


class Directory(Answer):
    """Reply to `GET /v1/internal/services`: all services that dispatchers call."""

    services: tuple[ServiceAddress, ...]
    """Experts and sources."""
