"""The queue's next item, and what trainers were told of an item, without looking at all rows."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.drop_index(op.f("ix_correction_items_state_priority_serial"), "correction_items")
    order = ["state", sa.text("priority DESC"), "serial"]
    op.create_index("ix_correction_items_next", "correction_items", order)
    op.create_index("ix_correction_items_next_of_round", "correction_items", ["round", *order])
    op.create_index(op.f("ix_correction_results_item_id"), "correction_results", ["item_id"])


def downgrade() -> None:
    op.drop_index(op.f("ix_correction_results_item_id"), "correction_results")
    op.drop_index("ix_correction_items_next_of_round", "correction_items")
    op.drop_index("ix_correction_items_next", "correction_items")
    op.create_index(
        op.f("ix_correction_items_state_priority_serial"),
        "correction_items",
        ["state", "priority", "serial"],
    )
