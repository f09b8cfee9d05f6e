"""What finds jobs by their state are rows of their own; no index of `jobs` changes as a job runs.

Replicas older than this must not run beside newer ones.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

_LONG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_GONE_INDEXES = (
    "jobs_queue",
    "jobs_pending",
    "jobs_leases",
    "jobs_deadlines",
    "jobs_holders",
    "jobs_by_request",
    "jobs_by_status",
    "jobs_by_worker",
    "jobs_finished_by_group",
)
_FILL = (
    """
INSERT INTO queue (job_seq, lane_id, rank)
SELECT seq, CASE WHEN queued THEN lane_id END, -priority FROM jobs WHERE status = 'pending'
""",
    """
INSERT INTO finished (job_seq, group_name, finish_seq)
SELECT seq, group_name, finish_seq FROM jobs
WHERE group_name IS NOT NULL AND finish_seq IS NOT NULL
""",
    """
UPDATE attempts SET request_id = (
    SELECT claim_request_id FROM jobs WHERE jobs.seq = attempts.job_seq
) WHERE ended_at IS NULL
""",
)


def upgrade() -> None:
    """Apply this step."""
    op.create_table(
        "queue",
        sa.Column("job_seq", _LONG, primary_key=True, autoincrement=False),
        sa.Column("lane_id", sa.Integer()),
        sa.Column("rank", sa.Integer(), nullable=False),
    )
    op.create_table(
        "finished",
        sa.Column("job_seq", _LONG, primary_key=True, autoincrement=False),
        sa.Column("group_name", sa.Text(), nullable=False),
        sa.Column("finish_seq", _LONG, nullable=False),
    )
    op.add_column("attempts", sa.Column("request_id", sa.Text()))
    for statement in _FILL:
        op.execute(statement)
    op.create_index("queue_heads", "queue", ["lane_id", "rank", "job_seq"])
    op.create_index("finished_by_group", "finished", ["group_name", "finish_seq"])
    _create_partial("attempts_open", "attempts", ["worker_id", "job_seq"], "ended_at IS NULL")
    _create_partial("jobs_ended_badly", "jobs", ["seq"], "error_code IS NOT NULL")
    for name in _GONE_INDEXES:
        op.drop_index(name, "jobs")
    for column in ("queued", "claim_request_id", "finish_seq"):
        op.execute(f"ALTER TABLE jobs DROP COLUMN {column}")
    if op.get_bind().dialect.name == "postgresql":
        _leave_more_room()


def _create_partial(name: str, table: str, columns: list[str], where: str) -> None:
    condition = sa.text(where)
    op.create_index(name, table, columns, sqlite_where=condition, postgresql_where=condition)


def _leave_more_room() -> None:
    """A job is rewritten in its page while its neighbours are: half of it stays free for that.

    Most jobs have no idempotency key, and need not stand in the index of keys.
    """
    op.drop_constraint("jobs_idempotency_key_key", "jobs", type_="unique")
    op.create_index(
        "jobs_by_key",
        "jobs",
        ["idempotency_key"],
        unique=True,
        postgresql_where=sa.text("idempotency_key IS NOT NULL"),
    )
    op.execute("ALTER TABLE jobs SET (fillfactor = 50)")
    for table in ("queue", "attempts"):
        op.execute(
            f"ALTER TABLE {table} SET (autovacuum_vacuum_scale_factor = 0.02, "
            "autovacuum_vacuum_cost_delay = 0)"
        )
