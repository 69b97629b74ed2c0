"""Tables of human corrections. Versions, reviews and claims are never deleted.

    rounds ── items ── claims ── people
                 ├──── versions ── people
                 ├──── reviews
                 ├──── drafts
                 ├──── questions (answer keys of the people's expert)
                 └──── results (the cursor that trainers read)

`CorrectionItem.num_live` duplicates the count of claims. It exists because a claim must change the
row that it locks: PostgreSQL then checks that row again before the next transaction gets it.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import ForeignKey, Index, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column

from preceptor_services.store.tables.questions import Base


class CorrectionPerson(Base):
    """One person, without the key itself; a person without a hash has no key."""

    __tablename__ = "correction_people"
    name: Mapped[str] = mapped_column(primary_key=True)
    role: Mapped[str]
    token_hmac: Mapped[str | None] = mapped_column(unique=True)
    settings: Mapped[dict[str, Any]]
    created_at: Mapped[float]
    revoked_at: Mapped[float | None]
    retired_at: Mapped[float | None]
    retired_reason: Mapped[str | None]


class CorrectionRound(Base):
    """One queue with its rules."""

    __tablename__ = "correction_rounds"
    name: Mapped[str] = mapped_column(primary_key=True)
    settings: Mapped[dict[str, Any]]
    closed: Mapped[bool]
    created_at: Mapped[float]


class CorrectionItem(Base):
    """One response that people may correct."""

    __tablename__ = "correction_items"
    serial: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    id: Mapped[str] = mapped_column(unique=True)
    round: Mapped[str] = mapped_column(ForeignKey("correction_rounds.name"))
    content_sha256: Mapped[str]
    prompt_sha256: Mapped[str] = mapped_column(index=True)
    state: Mapped[str]
    wanted: Mapped[int]
    num_live: Mapped[int]
    """Claims that are active or submitted; never more than `wanted`."""
    priority: Mapped[float] = mapped_column()
    reason: Mapped[str]
    run: Mapped[str | None]
    rollout_id: Mapped[str | None]
    problem_id: Mapped[str | None]
    step: Mapped[int | None]
    authoritative: Mapped[str | None]
    """Id of a version; null in every state except `done`."""
    excerpt: Mapped[str]
    document: Mapped[dict[str, Any]]
    """The `NewItem` as it was sent."""
    created_at: Mapped[float]
    updated_at: Mapped[float]
    __table_args__ = (
        UniqueConstraint("round", "content_sha256"),
        # In the order of claiming, so that the first item is found without a sort.
        Index("ix_correction_items_next", "state", priority.desc(), "serial"),
        Index("ix_correction_items_next_of_round", "round", "state", priority.desc(), "serial"),
        Index(None, "content_sha256"),
        {"sqlite_autoincrement": True},
    )


class CorrectionClaim(Base):
    """One lease and its end."""

    __tablename__ = "correction_claims"
    id: Mapped[str] = mapped_column(primary_key=True)
    item_id: Mapped[str] = mapped_column(ForeignKey("correction_items.id"))
    person: Mapped[str] = mapped_column(ForeignKey("correction_people.name"))
    state: Mapped[str]
    claimed_at: Mapped[float]
    lease_until: Mapped[float]
    ended_at: Mapped[float | None]
    reason: Mapped[str | None]
    __table_args__ = (
        # The last protection against a double claim: the database itself refuses it.
        Index(
            "uq_correction_claims_item_id_person_live",
            "item_id",
            "person",
            unique=True,
            sqlite_where=text("state IN ('active', 'submitted')"),
            postgresql_where=text("state IN ('active', 'submitted')"),
        ),
        Index(None, "item_id", "person"),
        Index(None, "person", "state"),
        Index(None, "state", "lease_until"),
    )


class CorrectionVersion(Base):
    """One submission of one person."""

    __tablename__ = "correction_versions"
    serial: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    id: Mapped[str] = mapped_column(unique=True)
    item_id: Mapped[str] = mapped_column(ForeignKey("correction_items.id"), index=True)
    claim_id: Mapped[str | None] = mapped_column(ForeignKey("correction_claims.id"), index=True)
    person: Mapped[str] = mapped_column(ForeignKey("correction_people.name"), index=True)
    decision: Mapped[str]
    text: Mapped[str | None]
    text_sha256: Mapped[str | None] = mapped_column(index=True)
    comment: Mapped[str | None]
    created_at: Mapped[float]
    retired_at: Mapped[float | None]
    __table_args__ = ({"sqlite_autoincrement": True},)


class CorrectionReview(Base):
    """One decision of one reviewer."""

    __tablename__ = "correction_reviews"
    serial: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    id: Mapped[str] = mapped_column(unique=True)
    item_id: Mapped[str] = mapped_column(ForeignKey("correction_items.id"), index=True)
    reviewer: Mapped[str]
    verdict: Mapped[str]
    version_id: Mapped[str | None]
    comment: Mapped[str | None]
    created_at: Mapped[float]
    __table_args__ = ({"sqlite_autoincrement": True},)


class CorrectionDraft(Base):
    """Unfinished work; drafts are overwritten."""

    __tablename__ = "correction_drafts"
    item_id: Mapped[str] = mapped_column(ForeignKey("correction_items.id"), primary_key=True)
    person: Mapped[str] = mapped_column(ForeignKey("correction_people.name"), primary_key=True)
    text: Mapped[str | None]
    comment: Mapped[str | None]
    revision: Mapped[int]
    saved_at: Mapped[float]


class CorrectionQuestion(Base):
    """A question to the people's expert, and the version from which its answer was made."""

    __tablename__ = "correction_questions"
    answer_key: Mapped[str] = mapped_column(primary_key=True)
    item_id: Mapped[str] = mapped_column(ForeignKey("correction_items.id"), index=True)
    asked_at: Mapped[float]
    given_at: Mapped[float | None] = mapped_column(index=True)
    version_id: Mapped[str | None] = mapped_column(index=True)
    takeover: Mapped[bool]
    """The question is about a corrected text itself, not about the student's response."""
    original_key: Mapped[str | None]
    """For a question that is repeated after a revision: the key of the first question."""


class CorrectionResult(Base):
    """One change of an authoritative result, in the order in which trainers read them."""

    __tablename__ = "correction_results"
    cursor: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    kind: Mapped[str]
    item_id: Mapped[str] = mapped_column(ForeignKey("correction_items.id"), index=True)
    version_id: Mapped[str | None]
    reviewer: Mapped[str | None]
    run: Mapped[str | None]
    created_at: Mapped[float]
    __table_args__ = (Index(None, "run", "cursor"), {"sqlite_autoincrement": True})


class CorrectionVocabulary(Base):
    """The spelling of the ids of one vocabulary; the pieces are stored in a blob."""

    __tablename__ = "correction_vocabularies"
    fingerprint: Mapped[str] = mapped_column(primary_key=True)
    blob_sha256: Mapped[str] = mapped_column(ForeignKey("blobs.sha256"))
    num_pieces: Mapped[int]
