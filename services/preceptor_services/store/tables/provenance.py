"""Tables of provenance: the sources of every target, and its use by optimiser steps.

    runs ── lineages ── steps ── consumed ── rollouts
                                     └────── targets ── target_answers ── answers
                       answers ── answer_feedback ── feedback_items ── answers (of a source)

Arrays are stored in packs: blobs that map ids to arrays, one per request, because a synced file per
row would cost more than the step.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import ForeignKey, ForeignKeyConstraint, Index, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from preceptor_services.store.tables.questions import Base


class FeedbackItemRow(Base):
    """One feedback item, with the answer of the source that made it, if a source did."""

    __tablename__ = "feedback_items"
    id: Mapped[str] = mapped_column(primary_key=True)
    answer_key: Mapped[str | None] = mapped_column(ForeignKey("answers.answer_key"), index=True)
    ordinal: Mapped[int]
    content_hash: Mapped[str]
    document: Mapped[dict[str, Any]]
    """The item in its wire format."""
    created_at: Mapped[float]
    source: Mapped[str]
    version: Mapped[str]
    """Of the source, when it made the item."""
    error: Mapped[str | None]
    """Why the judgement failed; such an item has no score."""
    latency_ms: Mapped[float | None]
    """Time of the judgement, or of the call that it was a part of."""
    cost: Mapped[float | None]
    rollout_id: Mapped[str | None] = mapped_column(index=True)
    """The rollout of an item that no source gave; a source's answer leads to its rollouts."""
    state: Mapped[str]
    """`standing`; an item that is `superseded` or `retired` counts in no score."""
    state_reason: Mapped[str | None]
    """Why it does not stand any more."""
    superseded_by: Mapped[str | None] = mapped_column(index=True)
    """Id of the item that counts in the place of a superseded one."""


class AnswerFeedback(Base):
    """A feedback item that was in the expert's context."""

    __tablename__ = "answer_feedback"
    answer_key: Mapped[str] = mapped_column(ForeignKey("answers.answer_key"), primary_key=True)
    ordinal: Mapped[int] = mapped_column(primary_key=True)
    item_id: Mapped[str] = mapped_column(ForeignKey("feedback_items.id"), index=True)


class Weights(Base):
    """One immutable version of a policy."""

    __tablename__ = "weights"
    serial: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    version: Mapped[str] = mapped_column(unique=True)
    policy: Mapped[str]
    lineage: Mapped[str]
    step: Mapped[int]
    parent: Mapped[str | None]
    manifest: Mapped[dict[str, Any]]
    created_at: Mapped[float]
    __table_args__ = (Index(None, "policy", "lineage", "step"),)


class Run(Base):
    """One training run."""

    __tablename__ = "runs"
    name: Mapped[str] = mapped_column(primary_key=True)
    document: Mapped[dict[str, Any]]
    created_at: Mapped[float]


class Lineage(Base):
    """One start of a run; it supersedes its parent's steps from `from_step` on."""

    __tablename__ = "lineages"
    run: Mapped[str] = mapped_column(ForeignKey("runs.name"), primary_key=True)
    name: Mapped[str] = mapped_column(primary_key=True)
    serial: Mapped[int]
    parent: Mapped[str | None]
    from_step: Mapped[int]
    document: Mapped[dict[str, Any]]
    """Settings of this lineage that differ from the run's, and its versions."""
    created_at: Mapped[float]
    __table_args__ = (
        UniqueConstraint("run", "serial"),
        ForeignKeyConstraint(["run", "parent"], ["lineages.run", "lineages.name"]),
    )


class Rollout(Base):
    """One attempt of the student."""

    __tablename__ = "rollouts"
    id: Mapped[str] = mapped_column(primary_key=True)
    run: Mapped[str]
    lineage: Mapped[str]
    step: Mapped[int]
    problem_id: Mapped[str]
    group_id: Mapped[str]
    weights: Mapped[str]
    finish_reason: Mapped[str]
    sampling: Mapped[dict[str, Any]]
    num_tokens: Mapped[int]
    content_hash: Mapped[str]
    pack_sha256: Mapped[str] = mapped_column(ForeignKey("blobs.sha256"))
    created_at: Mapped[float]
    __table_args__ = (
        ForeignKeyConstraint(["run", "lineage"], ["lineages.run", "lineages.name"]),
        Index(None, "run", "lineage", "step"),
    )


class Target(Base):
    """The result of one builder run for one rollout."""

    __tablename__ = "targets"
    id: Mapped[str] = mapped_column(primary_key=True)
    rollout_id: Mapped[str] = mapped_column(ForeignKey("rollouts.id"), index=True)
    builder_version: Mapped[str]
    settings: Mapped[dict[str, Any]]
    settings_hash: Mapped[str]
    content_hash: Mapped[str]
    pack_sha256: Mapped[str] = mapped_column(ForeignKey("blobs.sha256"))
    created_at: Mapped[float]


class TargetAnswer(Base):
    """Component `ordinal` of a target."""

    __tablename__ = "target_answers"
    target_id: Mapped[str] = mapped_column(ForeignKey("targets.id"), primary_key=True)
    ordinal: Mapped[int] = mapped_column(primary_key=True)
    answer_id: Mapped[str] = mapped_column(ForeignKey("answers.answer_id"), index=True)


class Step(Base):
    """One optimiser step."""

    __tablename__ = "steps"
    run: Mapped[str] = mapped_column(primary_key=True)
    lineage: Mapped[str] = mapped_column(primary_key=True)
    step: Mapped[int] = mapped_column(primary_key=True)
    loss: Mapped[float]
    metrics: Mapped[dict[str, Any]]
    weights_before: Mapped[str]
    weights_after: Mapped[str]
    content_hash: Mapped[str]
    pack_sha256: Mapped[str] = mapped_column(ForeignKey("blobs.sha256"))
    """Costs, advantages and log-probs of the consumed rollouts, by rollout."""
    created_at: Mapped[float]
    __table_args__ = (ForeignKeyConstraint(["run", "lineage"], ["lineages.run", "lineages.name"]),)


class Consumed(Base):
    """A rollout that a step trained on."""

    __tablename__ = "consumed"
    run: Mapped[str] = mapped_column(primary_key=True)
    lineage: Mapped[str] = mapped_column(primary_key=True)
    step: Mapped[int] = mapped_column(primary_key=True)
    rollout_id: Mapped[str] = mapped_column(ForeignKey("rollouts.id"), primary_key=True)
    target_id: Mapped[str | None] = mapped_column(ForeignKey("targets.id"), index=True)
    __table_args__ = (
        ForeignKeyConstraint(
            ["run", "lineage", "step"], ["steps.run", "steps.lineage", "steps.step"]
        ),
        Index(None, "rollout_id"),
    )


class Audit(Base):
    """One entry of the audit log; triggers refuse to change or delete it."""

    __tablename__ = "audit"
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    at: Mapped[float]
    actor: Mapped[str]
    action: Mapped[str]
    subject: Mapped[str]
    detail: Mapped[dict[str, Any]]
    previous_sha256: Mapped[str]
    sha256: Mapped[str]
