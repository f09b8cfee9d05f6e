"""The first schema."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_LONG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_SORTED = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    """Apply this step."""
    op.create_table(
        "lanes",
        sa.Column("lane_id", sa.Integer(), nullable=False),
        sa.Column("lane_key", sa.Text(), nullable=False),
        sa.Column("runtime", sa.Text(), nullable=False),
        sa.Column("job_type", sa.Text(), nullable=False),
        sa.Column("family", sa.Text(), nullable=False),
        sa.Column("version", sa.Text(), nullable=False),
        sa.Column("min_memory_mb", sa.Integer(), nullable=False),
        sa.Column("min_gpu_memory_mb", sa.Integer(), nullable=False),
        sa.Column("tags", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("lane_id"),
        sa.UniqueConstraint("lane_key"),
    )
    op.create_table(
        "tallies",
        sa.Column("scope", _SORTED, nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("value", _LONG, nullable=False),
        sa.PrimaryKeyConstraint("scope", "name"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "workers",
        sa.Column("worker_id", sa.Text(), nullable=False),
        sa.Column("instance_id", sa.Text(), nullable=False),
        sa.Column("hostname", sa.Text(), nullable=False),
        sa.Column("ip_address", sa.Text(), nullable=False),
        sa.Column("version", sa.Text(), nullable=False),
        sa.Column("capabilities", sa.Text(), nullable=False),
        sa.Column("resources", sa.Text(), nullable=False),
        sa.Column("tags", sa.Text(), nullable=False),
        sa.Column("models", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("status_reason", sa.Text(), nullable=False),
        sa.Column("desired_state", sa.Text(), nullable=False),
        sa.Column("lost", sa.Boolean(), nullable=False),
        sa.Column("total_jobs_completed", sa.Integer(), nullable=False),
        sa.Column("total_jobs_failed", sa.Integer(), nullable=False),
        sa.Column("last_heartbeat", sa.Float(), nullable=False),
        sa.Column("last_seen", sa.Float(), nullable=False),
        sa.Column("registered_at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("worker_id"),
    )
    op.create_table(
        "actions",
        sa.Column("seq", _LONG, nullable=False),
        sa.Column("action_id", sa.Text(), nullable=False),
        sa.Column("worker_id", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("jobs", sa.Text(), nullable=False),
        sa.Column("config", sa.Text(), nullable=False),
        sa.Column("deadline_seconds", sa.Float(), nullable=True),
        sa.ForeignKeyConstraint(["worker_id"], ["workers.worker_id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("seq"),
        sa.UniqueConstraint("action_id"),
        sqlite_autoincrement=True,
    )
    op.create_index("actions_by_worker", "actions", ["worker_id", "seq"], unique=False)

    op.create_table(
        "jobs",
        sa.Column("seq", _LONG, nullable=False),
        sa.Column("job_id", sa.Text(), nullable=False),
        sa.Column("lane_id", sa.Integer(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("queued", sa.Boolean(), nullable=False),
        sa.Column("delayed", sa.Boolean(), nullable=False),
        sa.Column("job_type", sa.Text(), nullable=False),
        sa.Column("priority", sa.Integer(), nullable=False),
        sa.Column("family", sa.Text(), nullable=False),
        sa.Column("version", sa.Text(), nullable=False),
        sa.Column("runtime", sa.Text(), nullable=False),
        sa.Column("timeout_seconds", sa.Integer(), nullable=False),
        sa.Column("retry_config", sa.Text(), nullable=False),
        sa.Column("min_memory_mb", sa.Integer(), nullable=False),
        sa.Column("min_gpu_memory_mb", sa.Integer(), nullable=False),
        sa.Column("tags", sa.Text(), nullable=False),
        sa.Column("group_name", sa.Text(), nullable=True),
        sa.Column("idempotency_key", sa.Text(), nullable=True),
        sa.Column("request_hash", sa.Text(), nullable=False),
        sa.Column("trace", sa.Text(), nullable=True),
        sa.Column("size_bytes", _LONG, nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("retries_used", sa.Integer(), nullable=False),
        sa.Column("worker_id", sa.Text(), nullable=True),
        sa.Column("claim_request_id", sa.Text(), nullable=True),
        sa.Column("renewed", sa.Boolean(), nullable=False),
        sa.Column("next_chunk", _LONG, nullable=False),
        sa.Column("status_message", sa.Text(), nullable=True),
        sa.Column("cancel_requested", sa.Boolean(), nullable=False),
        sa.Column("submitted_at", sa.Float(), nullable=False),
        sa.Column("available_at", sa.Float(), nullable=False),
        sa.Column("started_at", sa.Float(), nullable=True),
        sa.Column("finished_at", sa.Float(), nullable=True),
        sa.Column("finish_seq", _LONG, nullable=True),
        sa.Column("lease_expires_at", sa.Float(), nullable=True),
        sa.Column("deadline_at", sa.Float(), nullable=True),
        sa.Column("error_code", sa.Text(), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("error_retryable", sa.Boolean(), nullable=True),
        sa.ForeignKeyConstraint(
            ["lane_id"],
            ["lanes.lane_id"],
        ),
        sa.PrimaryKeyConstraint("seq"),
        sa.UniqueConstraint("idempotency_key"),
        sa.UniqueConstraint("job_id"),
        sqlite_autoincrement=True,
    )
    op.create_index(
        "jobs_by_group",
        "jobs",
        ["group_name", "seq"],
        unique=False,
        sqlite_where=sa.text("group_name IS NOT NULL"),
        postgresql_where=sa.text("group_name IS NOT NULL"),
    )
    op.create_index("jobs_by_model", "jobs", ["family", "version", "seq"], unique=False)
    op.create_index("jobs_by_status", "jobs", ["status", "seq"], unique=False)
    op.create_index(
        "jobs_by_worker",
        "jobs",
        ["worker_id", "seq"],
        unique=False,
        sqlite_where=sa.text("worker_id IS NOT NULL"),
        postgresql_where=sa.text("worker_id IS NOT NULL"),
    )
    op.create_index(
        "jobs_deadlines",
        "jobs",
        ["deadline_at"],
        unique=False,
        sqlite_where=sa.text("deadline_at IS NOT NULL"),
        postgresql_where=sa.text("deadline_at IS NOT NULL"),
    )
    op.create_index(
        "jobs_delayed",
        "jobs",
        ["available_at"],
        unique=False,
        sqlite_where=sa.text("delayed"),
        postgresql_where=sa.text("delayed"),
    )
    op.create_index(
        "jobs_finished_by_group",
        "jobs",
        ["group_name", "finish_seq"],
        unique=False,
        sqlite_where=sa.text("group_name IS NOT NULL AND finish_seq IS NOT NULL"),
        postgresql_where=sa.text("group_name IS NOT NULL AND finish_seq IS NOT NULL"),
    )
    op.create_index(
        "jobs_holders",
        "jobs",
        ["worker_id"],
        unique=False,
        sqlite_where=sa.text("lease_expires_at IS NOT NULL"),
        postgresql_where=sa.text("lease_expires_at IS NOT NULL"),
    )
    op.create_index(
        "jobs_leases",
        "jobs",
        ["lease_expires_at"],
        unique=False,
        sqlite_where=sa.text("lease_expires_at IS NOT NULL"),
        postgresql_where=sa.text("lease_expires_at IS NOT NULL"),
    )
    op.create_index(
        "jobs_queue",
        "jobs",
        ["lane_id", sa.text("priority DESC"), "seq"],
        unique=False,
        sqlite_where=sa.text("queued"),
        postgresql_where=sa.text("queued"),
    )
    op.create_index(
        "jobs_pending",
        "jobs",
        ["seq"],
        unique=False,
        sqlite_where=sa.text("status = 'pending'"),
        postgresql_where=sa.text("status = 'pending'"),
    )

    op.create_table(
        "attempts",
        sa.Column("job_seq", _LONG, nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("worker_id", sa.Text(), nullable=False),
        sa.Column("started_at", sa.Float(), nullable=False),
        sa.Column("ended_at", sa.Float(), nullable=True),
        sa.Column("outcome", sa.Text(), nullable=True),
        sa.Column("reported", sa.Boolean(), nullable=False),
        sa.Column("error_code", sa.Text(), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(["job_seq"], ["jobs.seq"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("job_seq", "attempt"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "job_events",
        sa.Column("job_seq", _LONG, nullable=False),
        sa.Column("sequence", _LONG, nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("data", sa.Text(), nullable=False),
        sa.Column("at", sa.Float(), nullable=False),
        sa.ForeignKeyConstraint(["job_seq"], ["jobs.seq"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("job_seq", "sequence"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "job_inputs",
        sa.Column("job_seq", _LONG, nullable=False),
        sa.Column("input", sa.Text(), nullable=False),
        sa.Column("runtime_config", sa.Text(), nullable=False),
        sa.Column("metadata", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["job_seq"], ["jobs.seq"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("job_seq"),
    )
    op.create_table(
        "job_results",
        sa.Column("job_seq", _LONG, nullable=False),
        sa.Column("result", sa.Text(), nullable=True),
        sa.Column("output_metadata", sa.Text(), nullable=False),
        sa.Column("metrics", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["job_seq"], ["jobs.seq"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("job_seq"),
    )
    if op.get_bind().dialect.name == "postgresql":
        _leave_room_for_updates()


def _leave_room_for_updates() -> None:
    """These rows are rewritten all the time: keep it on their pages, and tidy up often."""
    for table in ("jobs", "tallies", "workers"):
        op.execute(
            f"ALTER TABLE {table} SET (fillfactor = 70, "
            "autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0)"
        )
