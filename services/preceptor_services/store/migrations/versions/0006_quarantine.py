"""Answers that may be wrong, because their expert failed an inspection; promises have an end."""

# pyright: reportUnknownArgumentType=false
from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # Promises had no end before; those that stand get a year.
    op.execute("UPDATE tickets SET deadline_at = deadline_at + 31536000 WHERE state = 'waiting'")
    op.create_table(
        "quarantined_answers",
        sa.Column("answer_id", sa.String(), nullable=False),
        sa.Column("quarantined_at", sa.Double(), nullable=False),
        sa.Column("service", sa.String(), nullable=False),
        sa.Column("reason", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("answer_id", "quarantined_at", name=op.f("pk_quarantined_answers")),
    )
    op.create_index(op.f("ix_quarantined_answers_service"), "quarantined_answers", ["service"])
    op.create_table(
        "service_inspections",
        sa.Column("service", sa.String(), nullable=False),
        sa.Column("good_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("service", name=op.f("pk_service_inspections")),
    )


def downgrade() -> None:
    op.drop_table("service_inspections")
    op.drop_index(op.f("ix_quarantined_answers_service"), "quarantined_answers")
    op.drop_table("quarantined_answers")
