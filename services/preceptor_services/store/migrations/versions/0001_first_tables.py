"""The first tables."""

# pyright: reportUnknownArgumentType=false
from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    _create_blobs()
    _create_jobs()
    _create_keys()
    _create_runs()
    _create_services()
    _create_weights()
    _create_answers()
    _create_attempts()
    _create_lineages()
    _create_service_versions()
    _create_feedback_items()
    _create_questions()
    _create_rollouts()
    _create_steps()
    _create_tickets()
    _create_answer_feedback()
    _create_arrivals()
    _create_targets()
    _create_consumed()
    _create_target_answers()


def _create_blobs() -> None:
    op.create_table(
        "blobs",
        sa.Column("sha256", sa.String(), nullable=False),
        sa.Column("size", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("dropped_at", sa.Double(), nullable=True),
        sa.PrimaryKeyConstraint("sha256", name=op.f("pk_blobs")),
    )


def _create_jobs() -> None:
    op.create_table(
        "jobs",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("service", sa.String(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("priority", sa.Integer(), nullable=False),
        sa.Column("num_tokens", sa.Integer(), nullable=False),
        sa.Column("exclusive", sa.Boolean(), nullable=False),
        sa.Column("fence", sa.Integer(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("put_at", sa.Double(), nullable=True),
        sa.Column("claimed_at", sa.Double(), nullable=True),
        sa.Column("reason", sa.JSON(none_as_null=True), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_jobs")),
    )
    with op.batch_alter_table("jobs", schema=None) as batch_op:
        batch_op.create_index(
            batch_op.f("ix_jobs_state_service"), ["state", "service"], unique=False
        )


def _create_keys() -> None:
    op.create_table(
        "keys",
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("token_hmac", sa.String(), nullable=False),
        sa.Column("scopes", sa.JSON(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("revoked_at", sa.Double(), nullable=True),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_keys")),
        sa.UniqueConstraint("token_hmac", name=op.f("uq_keys_token_hmac")),
    )


def _create_runs() -> None:
    op.create_table(
        "runs",
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("document", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_runs")),
    )


def _create_services() -> None:
    op.create_table(
        "services",
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("role", sa.String(), nullable=False),
        sa.Column("url", sa.String(), nullable=False),
        sa.Column("key_file", sa.String(), nullable=False),
        sa.Column("cost", sa.Double(), nullable=False),
        sa.Column("priority", sa.Integer(), nullable=False),
        sa.Column("added_at_runtime", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_services")),
    )


def _create_weights() -> None:
    op.create_table(
        "weights",
        sa.Column("serial", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("version", sa.String(), nullable=False),
        sa.Column("policy", sa.String(), nullable=False),
        sa.Column("lineage", sa.String(), nullable=False),
        sa.Column("step", sa.Integer(), nullable=False),
        sa.Column("parent", sa.String(), nullable=True),
        sa.Column("manifest", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("serial", name=op.f("pk_weights")),
        sa.UniqueConstraint("version", name=op.f("uq_weights_version")),
    )
    with op.batch_alter_table("weights", schema=None) as batch_op:
        batch_op.create_index(
            batch_op.f("ix_weights_policy_lineage_step"),
            ["policy", "lineage", "step"],
            unique=False,
        )


def _create_answers() -> None:
    op.create_table(
        "answers",
        sa.Column("answer_key", sa.String(), nullable=False),
        sa.Column("answer_id", sa.String(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("service", sa.String(), nullable=False),
        sa.Column("version", sa.String(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("job_id", sa.String(), nullable=True),
        sa.Column("ordinal", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("done_at", sa.Double(), nullable=True),
        sa.Column("pack_sha256", sa.String(), nullable=True),
        sa.Column("problem", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("expert", sa.String(), nullable=True),
        sa.Column("answer_kind", sa.String(), nullable=True),
        sa.Column("weights", sa.String(), nullable=True),
        sa.Column("template_version", sa.String(), nullable=True),
        sa.Column("context_hash", sa.String(), nullable=True),
        sa.Column("latency_ms", sa.Double(), nullable=True),
        sa.Column("cost", sa.Double(), nullable=True),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_answers_job_id_jobs")),
        sa.ForeignKeyConstraint(
            ["pack_sha256"], ["blobs.sha256"], name=op.f("fk_answers_pack_sha256_blobs")
        ),
        sa.PrimaryKeyConstraint("answer_key", name=op.f("pk_answers")),
        sa.UniqueConstraint("answer_id", name=op.f("uq_answers_answer_id")),
    )
    with op.batch_alter_table("answers", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_answers_job_id"), ["job_id"], unique=False)


def _create_attempts() -> None:
    op.create_table(
        "attempts",
        sa.Column("job_id", sa.String(), nullable=False),
        sa.Column("fence", sa.Integer(), nullable=False),
        sa.Column("dispatcher", sa.String(), nullable=False),
        sa.Column("claimed_at", sa.Double(), nullable=False),
        sa.Column("ended_at", sa.Double(), nullable=True),
        sa.Column("outcome", sa.String(), nullable=True),
        sa.Column("latency_ms", sa.Double(), nullable=True),
        sa.Column("reason", sa.JSON(none_as_null=True), nullable=True),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_attempts_job_id_jobs")),
        sa.PrimaryKeyConstraint("job_id", "fence", name=op.f("pk_attempts")),
    )


def _create_lineages() -> None:
    op.create_table(
        "lineages",
        sa.Column("run", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("serial", sa.Integer(), nullable=False),
        sa.Column("parent", sa.String(), nullable=True),
        sa.Column("from_step", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(
            ["run", "parent"],
            ["lineages.run", "lineages.name"],
            name=op.f("fk_lineages_run_parent_lineages"),
        ),
        sa.ForeignKeyConstraint(["run"], ["runs.name"], name=op.f("fk_lineages_run_runs")),
        sa.PrimaryKeyConstraint("run", "name", name=op.f("pk_lineages")),
        sa.UniqueConstraint("run", "serial", name=op.f("uq_lineages_run_serial")),
    )


def _create_service_versions() -> None:
    op.create_table(
        "service_versions",
        sa.Column("service", sa.String(), nullable=False),
        sa.Column("version", sa.String(), nullable=False),
        sa.Column("info", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("seen_at", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(
            ["service"], ["services.name"], name=op.f("fk_service_versions_service_services")
        ),
        sa.PrimaryKeyConstraint("service", "version", name=op.f("pk_service_versions")),
    )


def _create_feedback_items() -> None:
    op.create_table(
        "feedback_items",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("answer_key", sa.String(), nullable=True),
        sa.Column("ordinal", sa.Integer(), nullable=False),
        sa.Column("content_hash", sa.String(), nullable=False),
        sa.Column("document", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(
            ["answer_key"],
            ["answers.answer_key"],
            name=op.f("fk_feedback_items_answer_key_answers"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_feedback_items")),
    )
    with op.batch_alter_table("feedback_items", schema=None) as batch_op:
        batch_op.create_index(
            batch_op.f("ix_feedback_items_answer_key"), ["answer_key"], unique=False
        )


def _create_questions() -> None:
    op.create_table(
        "questions",
        sa.Column("answer_key", sa.String(), nullable=False),
        sa.Column("frame", sa.LargeBinary(), nullable=False),
        sa.Column("num_tokens", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(
            ["answer_key"], ["answers.answer_key"], name=op.f("fk_questions_answer_key_answers")
        ),
        sa.PrimaryKeyConstraint("answer_key", name=op.f("pk_questions")),
    )


def _create_rollouts() -> None:
    op.create_table(
        "rollouts",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("run", sa.String(), nullable=False),
        sa.Column("lineage", sa.String(), nullable=False),
        sa.Column("step", sa.Integer(), nullable=False),
        sa.Column("problem_id", sa.String(), nullable=False),
        sa.Column("group_id", sa.String(), nullable=False),
        sa.Column("weights", sa.String(), nullable=False),
        sa.Column("finish_reason", sa.String(), nullable=False),
        sa.Column("sampling", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("num_tokens", sa.Integer(), nullable=False),
        sa.Column("content_hash", sa.String(), nullable=False),
        sa.Column("pack_sha256", sa.String(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(
            ["pack_sha256"], ["blobs.sha256"], name=op.f("fk_rollouts_pack_sha256_blobs")
        ),
        sa.ForeignKeyConstraint(
            ["run", "lineage"],
            ["lineages.run", "lineages.name"],
            name=op.f("fk_rollouts_run_lineage_lineages"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_rollouts")),
    )
    with op.batch_alter_table("rollouts", schema=None) as batch_op:
        batch_op.create_index(
            batch_op.f("ix_rollouts_run_lineage_step"), ["run", "lineage", "step"], unique=False
        )


def _create_steps() -> None:
    op.create_table(
        "steps",
        sa.Column("run", sa.String(), nullable=False),
        sa.Column("lineage", sa.String(), nullable=False),
        sa.Column("step", sa.Integer(), nullable=False),
        sa.Column("loss", sa.Double(), nullable=False),
        sa.Column("metrics", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("weights_before", sa.String(), nullable=False),
        sa.Column("weights_after", sa.String(), nullable=False),
        sa.Column("content_hash", sa.String(), nullable=False),
        sa.Column("pack_sha256", sa.String(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(
            ["pack_sha256"], ["blobs.sha256"], name=op.f("fk_steps_pack_sha256_blobs")
        ),
        sa.ForeignKeyConstraint(
            ["run", "lineage"],
            ["lineages.run", "lineages.name"],
            name=op.f("fk_steps_run_lineage_lineages"),
        ),
        sa.PrimaryKeyConstraint("run", "lineage", "step", name=op.f("pk_steps")),
    )


def _create_tickets() -> None:
    op.create_table(
        "tickets",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("caller", sa.String(), nullable=False),
        sa.Column("idempotency_key", sa.String(), nullable=False),
        sa.Column("payload_hash", sa.String(), nullable=False),
        sa.Column("answer_key", sa.String(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("run", sa.String(), nullable=True),
        sa.Column("rollout_id", sa.String(), nullable=True),
        sa.Column("cached", sa.Boolean(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("deadline_at", sa.Double(), nullable=False),
        sa.Column("problem", sa.JSON(none_as_null=True), nullable=True),
        sa.ForeignKeyConstraint(
            ["answer_key"], ["answers.answer_key"], name=op.f("fk_tickets_answer_key_answers")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_tickets")),
        sa.UniqueConstraint(
            "caller", "idempotency_key", name=op.f("uq_tickets_caller_idempotency_key")
        ),
    )
    with op.batch_alter_table("tickets", schema=None) as batch_op:
        batch_op.create_index(
            batch_op.f("ix_tickets_answer_key_state"), ["answer_key", "state"], unique=False
        )
        batch_op.create_index(
            batch_op.f("ix_tickets_state_deadline_at"), ["state", "deadline_at"], unique=False
        )


def _create_answer_feedback() -> None:
    op.create_table(
        "answer_feedback",
        sa.Column("answer_key", sa.String(), nullable=False),
        sa.Column("ordinal", sa.Integer(), nullable=False),
        sa.Column("item_id", sa.String(), nullable=False),
        sa.ForeignKeyConstraint(
            ["answer_key"],
            ["answers.answer_key"],
            name=op.f("fk_answer_feedback_answer_key_answers"),
        ),
        sa.ForeignKeyConstraint(
            ["item_id"],
            ["feedback_items.id"],
            name=op.f("fk_answer_feedback_item_id_feedback_items"),
        ),
        sa.PrimaryKeyConstraint("answer_key", "ordinal", name=op.f("pk_answer_feedback")),
    )
    with op.batch_alter_table("answer_feedback", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_answer_feedback_item_id"), ["item_id"], unique=False)


def _create_arrivals() -> None:
    op.create_table(
        "arrivals",
        sa.Column("cursor", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("run", sa.String(), nullable=False),
        sa.Column("ticket_id", sa.String(), nullable=False),
        sa.ForeignKeyConstraint(
            ["ticket_id"], ["tickets.id"], name=op.f("fk_arrivals_ticket_id_tickets")
        ),
        sa.PrimaryKeyConstraint("cursor", name=op.f("pk_arrivals")),
        sqlite_autoincrement=True,
    )
    with op.batch_alter_table("arrivals", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_arrivals_run_cursor"), ["run", "cursor"], unique=False)


def _create_targets() -> None:
    op.create_table(
        "targets",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("rollout_id", sa.String(), nullable=False),
        sa.Column("builder_version", sa.String(), nullable=False),
        sa.Column("settings", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("settings_hash", sa.String(), nullable=False),
        sa.Column("content_hash", sa.String(), nullable=False),
        sa.Column("pack_sha256", sa.String(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(
            ["pack_sha256"], ["blobs.sha256"], name=op.f("fk_targets_pack_sha256_blobs")
        ),
        sa.ForeignKeyConstraint(
            ["rollout_id"], ["rollouts.id"], name=op.f("fk_targets_rollout_id_rollouts")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_targets")),
    )
    with op.batch_alter_table("targets", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_targets_rollout_id"), ["rollout_id"], unique=False)


def _create_consumed() -> None:
    op.create_table(
        "consumed",
        sa.Column("run", sa.String(), nullable=False),
        sa.Column("lineage", sa.String(), nullable=False),
        sa.Column("step", sa.Integer(), nullable=False),
        sa.Column("rollout_id", sa.String(), nullable=False),
        sa.Column("target_id", sa.String(), nullable=True),
        sa.ForeignKeyConstraint(
            ["rollout_id"], ["rollouts.id"], name=op.f("fk_consumed_rollout_id_rollouts")
        ),
        sa.ForeignKeyConstraint(
            ["run", "lineage", "step"],
            ["steps.run", "steps.lineage", "steps.step"],
            name=op.f("fk_consumed_run_lineage_step_steps"),
        ),
        sa.ForeignKeyConstraint(
            ["target_id"], ["targets.id"], name=op.f("fk_consumed_target_id_targets")
        ),
        sa.PrimaryKeyConstraint("run", "lineage", "step", "rollout_id", name=op.f("pk_consumed")),
    )
    with op.batch_alter_table("consumed", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_consumed_rollout_id"), ["rollout_id"], unique=False)
        batch_op.create_index(batch_op.f("ix_consumed_target_id"), ["target_id"], unique=False)


def _create_target_answers() -> None:
    op.create_table(
        "target_answers",
        sa.Column("target_id", sa.String(), nullable=False),
        sa.Column("ordinal", sa.Integer(), nullable=False),
        sa.Column("answer_id", sa.String(), nullable=False),
        sa.ForeignKeyConstraint(
            ["answer_id"], ["answers.answer_id"], name=op.f("fk_target_answers_answer_id_answers")
        ),
        sa.ForeignKeyConstraint(
            ["target_id"], ["targets.id"], name=op.f("fk_target_answers_target_id_targets")
        ),
        sa.PrimaryKeyConstraint("target_id", "ordinal", name=op.f("pk_target_answers")),
    )
    with op.batch_alter_table("target_answers", schema=None) as batch_op:
        batch_op.create_index(
            batch_op.f("ix_target_answers_answer_id"), ["answer_id"], unique=False
        )


def downgrade() -> None:
    with op.batch_alter_table("target_answers", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_target_answers_answer_id"))

    op.drop_table("target_answers")
    with op.batch_alter_table("consumed", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_consumed_target_id"))
        batch_op.drop_index(batch_op.f("ix_consumed_rollout_id"))

    op.drop_table("consumed")
    with op.batch_alter_table("targets", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_targets_rollout_id"))

    op.drop_table("targets")
    with op.batch_alter_table("arrivals", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_arrivals_run_cursor"))

    op.drop_table("arrivals")
    with op.batch_alter_table("answer_feedback", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_answer_feedback_item_id"))

    op.drop_table("answer_feedback")
    with op.batch_alter_table("tickets", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_tickets_state_deadline_at"))
        batch_op.drop_index(batch_op.f("ix_tickets_answer_key_state"))

    op.drop_table("tickets")
    op.drop_table("steps")
    with op.batch_alter_table("rollouts", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_rollouts_run_lineage_step"))

    op.drop_table("rollouts")
    op.drop_table("questions")
    with op.batch_alter_table("feedback_items", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_feedback_items_answer_key"))

    op.drop_table("feedback_items")
    op.drop_table("service_versions")
    op.drop_table("lineages")
    op.drop_table("attempts")
    with op.batch_alter_table("answers", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_answers_job_id"))

    op.drop_table("answers")
    with op.batch_alter_table("weights", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_weights_policy_lineage_step"))

    op.drop_table("weights")
    op.drop_table("services")
    op.drop_table("runs")
    op.drop_table("keys")
    with op.batch_alter_table("jobs", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_jobs_state_service"))

    op.drop_table("jobs")
    op.drop_table("blobs")
