"""Human corrections."""

# pyright: reportUnknownArgumentType=false
from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    _create_people()
    _create_rounds()
    _create_items()
    _create_vocabularies()
    _create_claims()
    _create_drafts()
    _create_questions()
    _create_results()
    _create_reviews()
    _create_versions()


def _create_people() -> None:
    op.create_table(
        "correction_people",
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("role", sa.String(), nullable=False),
        sa.Column("token_hmac", sa.String(), nullable=True),
        sa.Column("settings", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("revoked_at", sa.Double(), nullable=True),
        sa.Column("retired_at", sa.Double(), nullable=True),
        sa.Column("retired_reason", sa.String(), nullable=True),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_correction_people")),
        sa.UniqueConstraint("token_hmac", name=op.f("uq_correction_people_token_hmac")),
    )


def _create_rounds() -> None:
    op.create_table(
        "correction_rounds",
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("settings", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("closed", sa.Boolean(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_correction_rounds")),
    )


def _create_items() -> None:
    op.create_table(
        "correction_items",
        sa.Column("serial", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("round", sa.String(), nullable=False),
        sa.Column("content_sha256", sa.String(), nullable=False),
        sa.Column("prompt_sha256", sa.String(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("wanted", sa.Integer(), nullable=False),
        sa.Column("num_live", sa.Integer(), nullable=False),
        sa.Column("priority", sa.Double(), nullable=False),
        sa.Column("reason", sa.String(), nullable=False),
        sa.Column("run", sa.String(), nullable=True),
        sa.Column("rollout_id", sa.String(), nullable=True),
        sa.Column("problem_id", sa.String(), nullable=True),
        sa.Column("step", sa.Integer(), nullable=True),
        sa.Column("authoritative", sa.String(), nullable=True),
        sa.Column("excerpt", sa.String(), nullable=False),
        sa.Column("document", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("updated_at", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(
            ["round"],
            ["correction_rounds.name"],
            name=op.f("fk_correction_items_round_correction_rounds"),
        ),
        sa.PrimaryKeyConstraint("serial", name=op.f("pk_correction_items")),
        sa.UniqueConstraint("id", name=op.f("uq_correction_items_id")),
        sa.UniqueConstraint(
            "round", "content_sha256", name=op.f("uq_correction_items_round_content_sha256")
        ),
        sqlite_autoincrement=True,
    )
    with op.batch_alter_table("correction_items", schema=None) as batch_op:
        batch_op.create_index(
            batch_op.f("ix_correction_items_content_sha256"), ["content_sha256"], unique=False
        )
        batch_op.create_index(
            batch_op.f("ix_correction_items_prompt_sha256"), ["prompt_sha256"], unique=False
        )
        batch_op.create_index(
            batch_op.f("ix_correction_items_state_priority_serial"),
            ["state", "priority", "serial"],
            unique=False,
        )


def _create_vocabularies() -> None:
    op.create_table(
        "correction_vocabularies",
        sa.Column("fingerprint", sa.String(), nullable=False),
        sa.Column("blob_sha256", sa.String(), nullable=False),
        sa.Column("num_pieces", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(
            ["blob_sha256"],
            ["blobs.sha256"],
            name=op.f("fk_correction_vocabularies_blob_sha256_blobs"),
        ),
        sa.PrimaryKeyConstraint("fingerprint", name=op.f("pk_correction_vocabularies")),
    )


def _create_claims() -> None:
    op.create_table(
        "correction_claims",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("item_id", sa.String(), nullable=False),
        sa.Column("person", sa.String(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("claimed_at", sa.Double(), nullable=False),
        sa.Column("lease_until", sa.Double(), nullable=False),
        sa.Column("ended_at", sa.Double(), nullable=True),
        sa.Column("reason", sa.String(), nullable=True),
        sa.ForeignKeyConstraint(
            ["item_id"],
            ["correction_items.id"],
            name=op.f("fk_correction_claims_item_id_correction_items"),
        ),
        sa.ForeignKeyConstraint(
            ["person"],
            ["correction_people.name"],
            name=op.f("fk_correction_claims_person_correction_people"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_correction_claims")),
    )
    with op.batch_alter_table("correction_claims", schema=None) as batch_op:
        batch_op.create_index(
            batch_op.f("ix_correction_claims_item_id_person"), ["item_id", "person"], unique=False
        )
        batch_op.create_index(
            batch_op.f("ix_correction_claims_person_state"), ["person", "state"], unique=False
        )
        batch_op.create_index(
            batch_op.f("ix_correction_claims_state_lease_until"),
            ["state", "lease_until"],
            unique=False,
        )
        batch_op.create_index(
            "uq_correction_claims_item_id_person_live",
            ["item_id", "person"],
            unique=True,
            sqlite_where=sa.text("state IN ('active', 'submitted')"),
            postgresql_where=sa.text("state IN ('active', 'submitted')"),
        )


def _create_drafts() -> None:
    op.create_table(
        "correction_drafts",
        sa.Column("item_id", sa.String(), nullable=False),
        sa.Column("person", sa.String(), nullable=False),
        sa.Column("text", sa.String(), nullable=True),
        sa.Column("comment", sa.String(), nullable=True),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("saved_at", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(
            ["item_id"],
            ["correction_items.id"],
            name=op.f("fk_correction_drafts_item_id_correction_items"),
        ),
        sa.ForeignKeyConstraint(
            ["person"],
            ["correction_people.name"],
            name=op.f("fk_correction_drafts_person_correction_people"),
        ),
        sa.PrimaryKeyConstraint("item_id", "person", name=op.f("pk_correction_drafts")),
    )


def _create_questions() -> None:
    op.create_table(
        "correction_questions",
        sa.Column("answer_key", sa.String(), nullable=False),
        sa.Column("item_id", sa.String(), nullable=False),
        sa.Column("asked_at", sa.Double(), nullable=False),
        sa.Column("given_at", sa.Double(), nullable=True),
        sa.Column("version_id", sa.String(), nullable=True),
        sa.Column("takeover", sa.Boolean(), nullable=False),
        sa.Column("original_key", sa.String(), nullable=True),
        sa.ForeignKeyConstraint(
            ["item_id"],
            ["correction_items.id"],
            name=op.f("fk_correction_questions_item_id_correction_items"),
        ),
        sa.PrimaryKeyConstraint("answer_key", name=op.f("pk_correction_questions")),
    )
    with op.batch_alter_table("correction_questions", schema=None) as batch_op:
        batch_op.create_index(
            batch_op.f("ix_correction_questions_given_at"), ["given_at"], unique=False
        )
        batch_op.create_index(
            batch_op.f("ix_correction_questions_item_id"), ["item_id"], unique=False
        )
        batch_op.create_index(
            batch_op.f("ix_correction_questions_version_id"), ["version_id"], unique=False
        )


def _create_results() -> None:
    op.create_table(
        "correction_results",
        sa.Column("cursor", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("item_id", sa.String(), nullable=False),
        sa.Column("version_id", sa.String(), nullable=True),
        sa.Column("reviewer", sa.String(), nullable=True),
        sa.Column("run", sa.String(), nullable=True),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(
            ["item_id"],
            ["correction_items.id"],
            name=op.f("fk_correction_results_item_id_correction_items"),
        ),
        sa.PrimaryKeyConstraint("cursor", name=op.f("pk_correction_results")),
        sqlite_autoincrement=True,
    )
    with op.batch_alter_table("correction_results", schema=None) as batch_op:
        batch_op.create_index(
            batch_op.f("ix_correction_results_run_cursor"), ["run", "cursor"], unique=False
        )


def _create_reviews() -> None:
    op.create_table(
        "correction_reviews",
        sa.Column("serial", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("item_id", sa.String(), nullable=False),
        sa.Column("reviewer", sa.String(), nullable=False),
        sa.Column("verdict", sa.String(), nullable=False),
        sa.Column("version_id", sa.String(), nullable=True),
        sa.Column("comment", sa.String(), nullable=True),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(
            ["item_id"],
            ["correction_items.id"],
            name=op.f("fk_correction_reviews_item_id_correction_items"),
        ),
        sa.PrimaryKeyConstraint("serial", name=op.f("pk_correction_reviews")),
        sa.UniqueConstraint("id", name=op.f("uq_correction_reviews_id")),
        sqlite_autoincrement=True,
    )
    with op.batch_alter_table("correction_reviews", schema=None) as batch_op:
        batch_op.create_index(
            batch_op.f("ix_correction_reviews_item_id"), ["item_id"], unique=False
        )


def _create_versions() -> None:
    op.create_table(
        "correction_versions",
        sa.Column("serial", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("item_id", sa.String(), nullable=False),
        sa.Column("claim_id", sa.String(), nullable=True),
        sa.Column("person", sa.String(), nullable=False),
        sa.Column("decision", sa.String(), nullable=False),
        sa.Column("text", sa.String(), nullable=True),
        sa.Column("text_sha256", sa.String(), nullable=True),
        sa.Column("comment", sa.String(), nullable=True),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("retired_at", sa.Double(), nullable=True),
        sa.ForeignKeyConstraint(
            ["claim_id"],
            ["correction_claims.id"],
            name=op.f("fk_correction_versions_claim_id_correction_claims"),
        ),
        sa.ForeignKeyConstraint(
            ["item_id"],
            ["correction_items.id"],
            name=op.f("fk_correction_versions_item_id_correction_items"),
        ),
        sa.ForeignKeyConstraint(
            ["person"],
            ["correction_people.name"],
            name=op.f("fk_correction_versions_person_correction_people"),
        ),
        sa.PrimaryKeyConstraint("serial", name=op.f("pk_correction_versions")),
        sa.UniqueConstraint("id", name=op.f("uq_correction_versions_id")),
        sqlite_autoincrement=True,
    )
    with op.batch_alter_table("correction_versions", schema=None) as batch_op:
        batch_op.create_index(
            batch_op.f("ix_correction_versions_claim_id"), ["claim_id"], unique=False
        )
        batch_op.create_index(
            batch_op.f("ix_correction_versions_item_id"), ["item_id"], unique=False
        )
        batch_op.create_index(batch_op.f("ix_correction_versions_person"), ["person"], unique=False)
        batch_op.create_index(
            batch_op.f("ix_correction_versions_text_sha256"), ["text_sha256"], unique=False
        )


def downgrade() -> None:
    with op.batch_alter_table("correction_versions", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_correction_versions_text_sha256"))
        batch_op.drop_index(batch_op.f("ix_correction_versions_person"))
        batch_op.drop_index(batch_op.f("ix_correction_versions_item_id"))
        batch_op.drop_index(batch_op.f("ix_correction_versions_claim_id"))

    op.drop_table("correction_versions")
    with op.batch_alter_table("correction_reviews", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_correction_reviews_item_id"))

    op.drop_table("correction_reviews")
    with op.batch_alter_table("correction_results", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_correction_results_run_cursor"))

    op.drop_table("correction_results")
    with op.batch_alter_table("correction_questions", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_correction_questions_version_id"))
        batch_op.drop_index(batch_op.f("ix_correction_questions_item_id"))
        batch_op.drop_index(batch_op.f("ix_correction_questions_given_at"))

    op.drop_table("correction_questions")
    op.drop_table("correction_drafts")
    with op.batch_alter_table("correction_claims", schema=None) as batch_op:
        batch_op.drop_index(
            "uq_correction_claims_item_id_person_live",
            sqlite_where=sa.text("state IN ('active', 'submitted')"),
            postgresql_where=sa.text("state IN ('active', 'submitted')"),
        )
        batch_op.drop_index(batch_op.f("ix_correction_claims_state_lease_until"))
        batch_op.drop_index(batch_op.f("ix_correction_claims_person_state"))
        batch_op.drop_index(batch_op.f("ix_correction_claims_item_id_person"))

    op.drop_table("correction_claims")
    op.drop_table("correction_vocabularies")
    with op.batch_alter_table("correction_items", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_correction_items_state_priority_serial"))
        batch_op.drop_index(batch_op.f("ix_correction_items_prompt_sha256"))
        batch_op.drop_index(batch_op.f("ix_correction_items_content_sha256"))

    op.drop_table("correction_items")
    op.drop_table("correction_rounds")
    op.drop_table("correction_people")
