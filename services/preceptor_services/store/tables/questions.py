"""Tables of questions and answers: callers, services, answers, tickets, jobs.

Times are seconds since the epoch by the gateway's clock. JSON columns hold documents of
`schemas.py`. An answer belongs to its answer key: the key is unique, so that a retry cannot
train or bill twice.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    JSON,
    Double,
    ForeignKey,
    Index,
    LargeBinary,
    MetaData,
    UniqueConstraint,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from preceptor_services.store.tables.any_text import AnyText

NAMING = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}


class Base(DeclarativeBase):
    """Root of all tables."""

    metadata = MetaData(naming_convention=NAMING)
    type_annotation_map = {  # noqa: RUF012  SQLAlchemy reads it from the class
        float: Double,
        str: AnyText,
        dict[str, Any]: JSON(none_as_null=True),
        list[Any]: JSON,
        bytes: LargeBinary,
    }


class ApiKey(Base):
    """One caller, without the token itself."""

    __tablename__ = "keys"
    name: Mapped[str] = mapped_column(primary_key=True)
    token_hmac: Mapped[str] = mapped_column(unique=True)
    scopes: Mapped[list[Any]]
    created_at: Mapped[float]
    revoked_at: Mapped[float | None]


class Service(Base):
    """One expert or source; those of the settings and those added at run time."""

    __tablename__ = "services"
    name: Mapped[str] = mapped_column(primary_key=True)
    role: Mapped[str]
    url: Mapped[str]
    key_file: Mapped[str]
    cost: Mapped[float]
    priority: Mapped[int]
    added_at_runtime: Mapped[bool]
    self_test: Mapped[bool]
    known: Mapped[dict[str, Any] | None]
    """Known answers of a service added at run time; the settings name a file instead."""


class ServiceVersion(Base):
    """The declared information of a service, one row per version."""

    __tablename__ = "service_versions"
    service: Mapped[str] = mapped_column(ForeignKey("services.name"), primary_key=True)
    version: Mapped[str] = mapped_column(primary_key=True)
    info: Mapped[dict[str, Any]]
    seen_at: Mapped[float]


class Blob(Base):
    """One stored blob. A deleted blob keeps its row."""

    __tablename__ = "blobs"
    sha256: Mapped[str] = mapped_column(primary_key=True)
    size: Mapped[int]
    created_at: Mapped[float]
    dropped_at: Mapped[float | None]


class AnswerRow(Base):
    """One question to one version of a service, and its outcome.

    Prefix answers are stored in `pack_sha256`, a frame that maps answer keys to answers; the
    answers of one report share it.
    """

    __tablename__ = "answers"
    answer_key: Mapped[str] = mapped_column(primary_key=True)
    answer_id: Mapped[str] = mapped_column(unique=True)
    kind: Mapped[str]
    service: Mapped[str]
    version: Mapped[str]
    state: Mapped[str]
    job_id: Mapped[str | None] = mapped_column(ForeignKey("jobs.id"), index=True)
    ordinal: Mapped[int]
    created_at: Mapped[float]
    done_at: Mapped[float | None]
    pack_sha256: Mapped[str | None] = mapped_column(ForeignKey("blobs.sha256"))
    problem: Mapped[dict[str, Any] | None]
    expert: Mapped[str | None]
    answer_kind: Mapped[str | None]
    weights: Mapped[str | None]
    template_version: Mapped[str | None]
    context_hash: Mapped[str | None]
    latency_ms: Mapped[float | None]
    cost: Mapped[float | None]


class QuarantinedAnswer(Base):
    """An answer that was given between the last good inspection of its service and a failed one."""

    __tablename__ = "quarantined_answers"
    answer_id: Mapped[str] = mapped_column(primary_key=True)
    quarantined_at: Mapped[float] = mapped_column(primary_key=True)
    service: Mapped[str] = mapped_column(index=True)
    reason: Mapped[str]


class ServiceInspection(Base):
    """When a service last passed an inspection."""

    __tablename__ = "service_inspections"
    service: Mapped[str] = mapped_column(primary_key=True)
    good_at: Mapped[float]
    canary: Mapped[dict[str, Any] | None]
    """Its answers when the canary last passed, with their version and questions."""


class Question(Base):
    """A question as a compressed frame, stored so that it can be asked again."""

    __tablename__ = "questions"
    answer_key: Mapped[str] = mapped_column(ForeignKey("answers.answer_key"), primary_key=True)
    frame: Mapped[bytes]
    num_tokens: Mapped[int]


class Ticket(Base):
    """One submission; its id is derived from the caller and the caller's idempotency key."""

    __tablename__ = "tickets"
    id: Mapped[str] = mapped_column(primary_key=True)
    caller: Mapped[str]
    idempotency_key: Mapped[str]
    payload_hash: Mapped[str]
    answer_key: Mapped[str] = mapped_column(ForeignKey("answers.answer_key"))
    kind: Mapped[str]
    state: Mapped[str]
    run: Mapped[str | None]
    rollout_id: Mapped[str | None]
    cached: Mapped[bool]
    created_at: Mapped[float]
    deadline_at: Mapped[float]
    problem: Mapped[dict[str, Any] | None]
    __table_args__ = (
        UniqueConstraint("caller", "idempotency_key"),
        Index(None, "answer_key", "state"),
        Index(None, "state", "deadline_at"),
        Index(None, "rollout_id"),
    )


class Job(Base):
    """A bundle of unanswered questions to one service that dispatchers claim."""

    __tablename__ = "jobs"
    id: Mapped[str] = mapped_column(primary_key=True)
    service: Mapped[str]
    kind: Mapped[str]
    state: Mapped[str]
    priority: Mapped[int]
    num_tokens: Mapped[int]
    exclusive: Mapped[bool]
    fence: Mapped[int]
    attempts: Mapped[int]
    created_at: Mapped[float]
    put_at: Mapped[float | None]
    claimed_at: Mapped[float | None]
    reason: Mapped[dict[str, Any] | None]
    request_id: Mapped[str | None]
    __table_args__ = (Index(None, "state", "service"),)


class JobAttempt(Base):
    """One claim of a job and its end."""

    __tablename__ = "attempts"
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), primary_key=True)
    fence: Mapped[int] = mapped_column(primary_key=True)
    dispatcher: Mapped[str]
    claimed_at: Mapped[float]
    ended_at: Mapped[float | None]
    outcome: Mapped[str | None]
    latency_ms: Mapped[float | None]
    reason: Mapped[dict[str, Any] | None]


class Arrival(Base):
    """One finished ticket, in the order in which callers may read them."""

    __tablename__ = "arrivals"
    cursor: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    run: Mapped[str]
    ticket_id: Mapped[str] = mapped_column(ForeignKey("tickets.id"))
    __table_args__ = (Index(None, "run", "cursor"), {"sqlite_autoincrement": True})
