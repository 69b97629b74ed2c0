"""Who made a feedback item, what it took, and whether it stands, as columns."""

# pyright: reportUnknownArgumentType=false, reportUnknownMemberType=false
from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

_COLUMNS = ("source", "version", "error", "latency_ms", "cost", "rollout_id", "state")


def upgrade() -> None:
    added: list[sa.Column[Any]] = [
        sa.Column("source", sa.String(), nullable=False, server_default=""),
        sa.Column("version", sa.String(), nullable=False, server_default=""),
        sa.Column("error", sa.String(), nullable=True),
        sa.Column("latency_ms", sa.Double(), nullable=True),
        sa.Column("cost", sa.Double(), nullable=True),
        sa.Column("rollout_id", sa.String(), nullable=True),
        sa.Column("state", sa.String(), nullable=False, server_default="standing"),
    ]
    for column in added:
        op.add_column("feedback_items", column)
    op.create_index(op.f("ix_feedback_items_rollout_id"), "feedback_items", ["rollout_id"])
    items = sa.table(
        "feedback_items",
        sa.column("answer_key", sa.String()),
        sa.column("document", sa.JSON()),
        *(sa.column(name) for name in _COLUMNS),
    )
    answers = sa.table("answers", sa.column("answer_key"), sa.column("latency_ms"))
    took = sa.select(answers.c.latency_ms).where(answers.c.answer_key == items.c.answer_key)
    told = items.c.document
    op.execute(
        items.update().values(
            source=sa.func.coalesce(told["source"].as_string(), ""),
            version=sa.func.coalesce(told["version"].as_string(), ""),
            error=told["error"].as_string(),
            cost=told["cost"].as_float(),
            latency_ms=took.scalar_subquery(),
        )
    )


def downgrade() -> None:
    op.drop_index(op.f("ix_feedback_items_rollout_id"), "feedback_items")
    for name in reversed(_COLUMNS):
        op.drop_column("feedback_items", name)
