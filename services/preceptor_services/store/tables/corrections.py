"""Tables of human corrections. Versions, reviews and claims are only ever added to.

    rounds ── items ── claims ── people
                 ├──── versions ── people
                 ├──── reviews
                 ├──── drafts
                 ├──── questions (answer keys of the people's expert)
                 └──── results (the cursor that trainers read)

`CorrectionItem.num_live` repeats what the claims say. It is there because a claim must change the
row that it locks: PostgreSQL then looks at that row again before it gives it to the next one.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import ForeignKey, Index, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column

from preceptor_services.store.tables.questions import Base


class CorrectionPerson(Base):
    """One person. The key itself is nowhere; without a hash they have none."""

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
    """One response that people are asked about."""

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
    """A version; null in every state but `done`."""
    excerpt: Mapped[str]
    document: Mapped[dict[str, Any]]
    """The `NewItem` as it was sent."""
    created_at: Mapped[float]
    updated_at: Mapped[float]
    __table_args__ = (
        UniqueConstraint("round", "content_sha256"),
        # In the order in which they are given out: the first one is found without a sort.
        Index("ix_correction_items_next", "state", priority.desc(), "serial"),
        Index("ix_correction_items_next_of_round", "round", "state", priority.desc(), "serial"),
        Index(None, "content_sha256"),
        {"sqlite_autoincrement": True},
    )


class CorrectionClaim(Base):
    """One lease, and how it ended."""

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
        # The last wall against a double claim: the database itself refuses it.
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
    """What one person handed in."""

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
    """What one reviewer decided."""

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
    """Unfinished work: the one thing here that is overwritten."""

    __tablename__ = "correction_drafts"
    item_id: Mapped[str] = mapped_column(ForeignKey("correction_items.id"), primary_key=True)
    person: Mapped[str] = mapped_column(ForeignKey("correction_people.name"), primary_key=True)
    text: Mapped[str | None]
    comment: Mapped[str | None]
    revision: Mapped[int]
    saved_at: Mapped[float]


class CorrectionQuestion(Base):
    """A question to the people's expert, and the version that its answer was made of."""

    __tablename__ = "correction_questions"
    answer_key: Mapped[str] = mapped_column(primary_key=True)
    item_id: Mapped[str] = mapped_column(ForeignKey("correction_items.id"), index=True)
    asked_at: Mapped[float]
    given_at: Mapped[float | None] = mapped_column(index=True)
    version_id: Mapped[str | None] = mapped_column(index=True)
    takeover: Mapped[bool]
    """Asked about a corrected text itself, not about what the student wrote."""
    original_key: Mapped[str | None]
    """Set where this asks again after a revision: the key that was asked first."""


class CorrectionResult(Base):
    """One change of what counts, in the order in which trainers may read it."""

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
    """How the ids of one vocabulary are spelled; the pieces lie in a blob."""

    __tablename__ = "correction_vocabularies"
    fingerprint: Mapped[str] = mapped_column(primary_key=True)
    blob_sha256: Mapped[str] = mapped_column(ForeignKey("blobs.sha256"))
    num_pieces: Mapped[int]
