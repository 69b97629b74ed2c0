"""What each life of a run was made with, and the judgements of a rollout without a full scan."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("lineages", sa.Column("document", sa.JSON(), nullable=False, server_default="{}"))
    op.create_index(op.f("ix_tickets_rollout_id"), "tickets", ["rollout_id"])


def downgrade() -> None:
    op.drop_index(op.f("ix_tickets_rollout_id"), "tickets")
    op.drop_column("lineages", "document")
