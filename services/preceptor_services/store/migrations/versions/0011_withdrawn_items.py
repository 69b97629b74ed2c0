"""Why a feedback item does not stand any more, and which one counts in its place."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # No foreign key: SQLite would copy the table, to which others refer, for it.
    op.add_column("feedback_items", sa.Column("state_reason", sa.String(), nullable=True))
    op.add_column("feedback_items", sa.Column("superseded_by", sa.String(), nullable=True))
    op.create_index(op.f("ix_feedback_items_superseded_by"), "feedback_items", ["superseded_by"])


def downgrade() -> None:
    op.drop_index(op.f("ix_feedback_items_superseded_by"), "feedback_items")
    op.drop_column("feedback_items", "superseded_by")
    op.drop_column("feedback_items", "state_reason")
