"""The canary's last good answers outlive the gateway that asked for them."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    column = sa.Column("canary", sa.JSON(none_as_null=True), nullable=True)
    op.add_column("service_inspections", column)


def downgrade() -> None:
    with op.batch_alter_table("service_inspections", schema=None) as batch_op:
        batch_op.drop_column("canary")
