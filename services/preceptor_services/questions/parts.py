"""The parts of question handling, built once per process."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from preceptor_services.jobs.queue import JobQueue
from preceptor_services.kit.blobs import BlobStore
from preceptor_services.kit.clock import Clock
from preceptor_services.kit.metrics import Metrics
from preceptor_services.questions.answer_blobs import AnswerBlobs
from preceptor_services.questions.claim import JobClaims
from preceptor_services.questions.dead import DeadLetters
from preceptor_services.questions.late_answers import LateAnswers
from preceptor_services.questions.neighbours import Neighbours
from preceptor_services.questions.notifier import Notifier
from preceptor_services.questions.outcomes import Outcomes
from preceptor_services.questions.payloads import Payloads
from preceptor_services.questions.report import JobReports
from preceptor_services.questions.submit import Submissions
from preceptor_services.questions.sweep import Sweeper
from preceptor_services.registry.services import Registry
from preceptor_services.store.database import Database


@dataclass(frozen=True, kw_only=True)
class Questions:
    """The objects that routes about questions use."""

    notifier: Notifier
    payloads: Payloads
    submissions: Submissions
    outcomes: Outcomes
    claims: JobClaims
    reports: JobReports
    late_answers: LateAnswers
    sweeper: Sweeper
    neighbours: Neighbours
    dead_letters: DeadLetters

    @classmethod
    def build(
        cls,
        *,
        database: Database,
        blobs: BlobStore,
        queue: JobQueue,
        registry: Registry,
        clock: Clock,
        metrics: Metrics,
        max_queue: int,
        most_tokens: Mapping[str, int],
    ) -> Self:
        """Builds the parts; background tasks are not started."""
        notifier, answer_blobs = Notifier(), AnswerBlobs(blobs)
        sweeper = Sweeper(database, queue, notifier, clock)
        return cls(
            notifier=notifier,
            neighbours=Neighbours(database, queue, notifier),
            payloads=Payloads(database=database, blobs=blobs, clock=clock),
            submissions=Submissions(
                database=database,
                queue=queue,
                registry=registry,
                sweeper=sweeper,
                clock=clock,
                metrics=metrics,
                max_queue=max_queue,
                most_tokens=most_tokens,
            ),
            outcomes=Outcomes(database, answer_blobs),
            claims=JobClaims(
                database=database, blobs=blobs, notifier=notifier, clock=clock, metrics=metrics
            ),
            reports=JobReports(
                database=database,
                queue=queue,
                answer_blobs=answer_blobs,
                registry=registry,
                notifier=notifier,
                clock=clock,
                metrics=metrics,
            ),
            late_answers=LateAnswers(
                database=database,
                answer_blobs=answer_blobs,
                registry=registry,
                notifier=notifier,
                clock=clock,
                metrics=metrics,
            ),
            sweeper=sweeper,
            dead_letters=DeadLetters(database=database, sweeper=sweeper, clock=clock),
        )
