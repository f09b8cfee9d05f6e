"""The tables. Migrations build them; tests check that both say the same.

`jobs` is narrow because it is rewritten at every step; bulky texts lie in `job_inputs` and
`job_results`. No index of it has a column that changes in the life of a job that ends well: what
finds jobs by their state are rows of their own, which come and go. So PostgreSQL rewrites a job
in its page and leaves all indexes alone (a HOT update). `queue` has the jobs that wait, those of
`attempts` that have not ended tell which are held, `finished` has those of groups that have ended.

A *lane* is one combination of what a job demands of a worker, whose it is and whether it is a
batch's: claiming looks at the heads of fitting lanes, so its cost does not grow with the backlog.
What a `measured` lane demands is what
its jobs turned out to need, on top of what their submitters asked for.

PostgreSQL is not asked to check that jobs have a lane and what belongs to jobs has one: that would
cost a query for each row. Rows are added only beside their job or under its lock.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
    false,
    text,
    true,
)

metadata = MetaData()

LONG = BigInteger().with_variant(Integer(), "sqlite")
"""A number that may grow beyond 32 bits."""

SORTED = Text().with_variant(Text(collation="C"), "postgresql")
"""A text that is compared byte by byte, whatever the database's language."""


def _partial(name: str, where: str, *columns: object) -> Index:
    condition = text(where)
    return Index(name, *columns, sqlite_where=condition, postgresql_where=condition)  # type: ignore[arg-type]  # columns or SQL text


lanes = Table(
    "lanes",
    metadata,
    Column("lane_id", Integer, primary_key=True),
    Column("lane_key", Text, nullable=False, unique=True),
    Column("runtime", Text, nullable=False),
    Column("job_type", Text, nullable=False),
    Column("family", Text, nullable=False),
    Column("version", Text, nullable=False),
    Column("min_memory_mb", Integer, nullable=False),
    Column("min_gpu_memory_mb", Integer, nullable=False),
    Column("tags", Text, nullable=False),
    Column("measured", Boolean, nullable=False, server_default=false()),
    Column("key_id", Text, nullable=False, server_default=""),
    Column("is_batch", Boolean, nullable=False, server_default=false()),
    Index("lanes_by_key", "key_id"),
)

jobs = Table(
    "jobs",
    metadata,
    Column("seq", LONG, primary_key=True),
    Column("job_id", Text, nullable=False, unique=True),
    Column("lane_id", Integer, ForeignKey("lanes.lane_id"), nullable=False),
    Column("status", Text, nullable=False),
    Column("delayed", Boolean, nullable=False),
    Column("job_type", Text, nullable=False),
    Column("priority", Integer, nullable=False),
    Column("family", Text, nullable=False),
    Column("version", Text, nullable=False),
    Column("runtime", Text, nullable=False),
    Column("timeout_seconds", Integer, nullable=False),
    Column("retry_config", Text, nullable=False),
    Column("min_memory_mb", Integer, nullable=False),
    Column("min_gpu_memory_mb", Integer, nullable=False),
    Column("tags", Text, nullable=False),
    Column("group_name", Text),
    Column("idempotency_key", Text),
    Column("request_hash", Text, nullable=False),
    Column("trace", Text),
    Column("size_bytes", LONG, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("retries_used", Integer, nullable=False),
    Column("worker_id", Text),
    Column("renewed", Boolean, nullable=False),
    Column("next_chunk", LONG, nullable=False),
    Column("status_message", Text),
    Column("cancel_requested", Boolean, nullable=False),
    Column("submitted_at", Float, nullable=False),
    Column("available_at", Float, nullable=False),
    Column("started_at", Float),
    Column("finished_at", Float),
    Column("lease_expires_at", Float),
    Column("deadline_at", Float),
    Column("error_code", Text),
    Column("error", Text),
    Column("error_retryable", Boolean),
    Column("engine_crashes", Integer, nullable=False, server_default="0"),
    Column("row_count", Integer, nullable=False, server_default="0"),
    Column("void_attempts", Integer, nullable=False, server_default="0"),
    Column("pruned_lines", LONG, nullable=False, server_default="0"),
    Column("next_event", LONG, nullable=False, server_default="0"),
    Column("lost_workers", Integer, nullable=False, server_default="0"),
    Column("key_id", Text),
    UniqueConstraint("idempotency_key").ddl_if(dialect="sqlite"),
    Index(
        "jobs_by_key",
        "idempotency_key",
        unique=True,
        postgresql_where=text("idempotency_key IS NOT NULL"),
    ).ddl_if(dialect="postgresql"),
    _partial("jobs_delayed", "delayed", "available_at"),
    _partial("jobs_ended_badly", "error_code IS NOT NULL", "seq"),
    Index("jobs_by_model", "family", "version", "seq"),
    _partial("jobs_by_group", "group_name IS NOT NULL", "group_name", "seq"),
    _partial("jobs_by_owner", "key_id IS NOT NULL", "key_id", "seq"),
    sqlite_autoincrement=True,
)

queue = Table(
    "queue",
    metadata,
    Column("job_seq", LONG, primary_key=True, autoincrement=False),
    Column("lane_id", Integer),
    Column("rank", Integer, nullable=False),
    Index("queue_heads", "lane_id", "rank", "job_seq"),
)
"""Every pending job. `lane_id` is NULL while it is delayed; the smallest `rank` goes first."""

finished = Table(
    "finished",
    metadata,
    Column("job_seq", LONG, primary_key=True, autoincrement=False),
    Column("group_name", Text, nullable=False),
    Column("finish_seq", LONG, nullable=False),
    Index("finished_by_group", "group_name", "finish_seq"),
)

job_inputs = Table(
    "job_inputs",
    metadata,
    Column("job_seq", LONG, ForeignKey("jobs.seq", ondelete="CASCADE"), primary_key=True),
    Column("input", Text, nullable=False),
    Column("runtime_config", Text, nullable=False),
    Column("metadata", Text, nullable=False),
)

job_results = Table(
    "job_results",
    metadata,
    Column("job_seq", LONG, ForeignKey("jobs.seq", ondelete="CASCADE"), primary_key=True),
    Column("result", Text),
    Column("output_metadata", Text, nullable=False),
    Column("metrics", Text, nullable=False),
)

attempts = Table(
    "attempts",
    metadata,
    Column("job_seq", LONG, ForeignKey("jobs.seq", ondelete="CASCADE"), primary_key=True),
    Column("attempt", Integer, primary_key=True),
    Column("worker_id", Text, nullable=False),
    Column("started_at", Float, nullable=False),
    Column("ended_at", Float),
    Column("outcome", Text),
    Column("reported", Boolean, nullable=False),
    Column("error_code", Text),
    Column("error", Text),
    Column("request_id", Text),
    _partial("attempts_open", "ended_at IS NULL", "worker_id", "job_seq"),
    sqlite_with_rowid=False,
)

job_events = Table(
    "job_events",
    metadata,
    Column("job_seq", LONG, ForeignKey("jobs.seq", ondelete="CASCADE"), primary_key=True),
    Column("sequence", LONG, primary_key=True),
    Column("kind", Text, nullable=False),
    Column("data", Text, nullable=False),
    Column("at", Float, nullable=False),
    sqlite_with_rowid=False,
)

workers = Table(
    "workers",
    metadata,
    Column("worker_id", Text, primary_key=True),
    Column("instance_id", Text, nullable=False),
    Column("hostname", Text, nullable=False),
    Column("ip_address", Text, nullable=False),
    Column("version", Text, nullable=False),
    Column("capabilities", Text, nullable=False),
    Column("resources", Text, nullable=False),
    Column("tags", Text, nullable=False),
    Column("models", Text, nullable=False),
    Column("status", Text, nullable=False),
    Column("status_reason", Text, nullable=False),
    Column("desired_state", Text, nullable=False),
    Column("lost", Boolean, nullable=False),
    Column("total_jobs_completed", Integer, nullable=False),
    Column("total_jobs_failed", Integer, nullable=False),
    Column("last_heartbeat", Float, nullable=False),
    Column("last_seen", Float, nullable=False),
    Column("registered_at", Float, nullable=False),
    Column("offered_memory_mb", Integer, nullable=False, server_default="0"),
    Column("offered_gpu_memory_mb", Integer, nullable=False, server_default="0"),
)

watches = Table(
    "watches",
    metadata,
    Column(
        "worker_id", Text, ForeignKey("workers.worker_id", ondelete="CASCADE"), primary_key=True
    ),
    Column("instance_id", Text, nullable=False),
    Column("watch_id", Text, nullable=False),
)

actions = Table(
    "actions",
    metadata,
    Column("seq", LONG, primary_key=True),
    Column("action_id", Text, nullable=False, unique=True),
    Column("worker_id", Text, ForeignKey("workers.worker_id", ondelete="CASCADE"), nullable=False),
    Column("kind", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("jobs", Text, nullable=False),
    Column("config", Text, nullable=False),
    Column("deadline_seconds", Float),
    Index("actions_by_worker", "worker_id", "seq"),
    sqlite_autoincrement=True,
)

tallies = Table(
    "tallies",
    metadata,
    Column("scope", SORTED, primary_key=True),
    Column("name", Text, primary_key=True),
    Column("value", LONG, nullable=False),
    sqlite_with_rowid=False,
)

files = Table(
    "files",
    metadata,
    Column("seq", LONG, primary_key=True),
    Column("file_id", Text, nullable=False, unique=True),
    Column("purpose", Text, nullable=False),
    Column("filename", Text, nullable=False),
    Column("size_bytes", LONG, nullable=False),
    Column("created_at", Float, nullable=False),
    Column("expires_at", Float),
    Column("key_id", Text, nullable=False, server_default=""),
    Column("whole", Boolean, nullable=False, server_default=true()),
    _partial("files_expiring", "expires_at IS NOT NULL", "expires_at"),
    sqlite_autoincrement=True,
)
"""A file that is not `whole` is being written; it goes when its time is over, as all do."""

batches = Table(
    "batches",
    metadata,
    Column("seq", LONG, primary_key=True),
    Column("batch_id", Text, nullable=False, unique=True),
    Column("endpoint", Text, nullable=False),
    Column("input_file_id", Text, nullable=False),
    Column("output_file_id", Text, nullable=False, unique=True),
    Column("error_file_id", Text, nullable=False, unique=True),
    Column("metadata", Text, nullable=False),
    Column("created_at", Float, nullable=False),
    Column("expires_at", Float, nullable=False),
    Column("state", Text, nullable=False),
    Column("cancelling_at", Float),
    Column("progress", Text, nullable=False),
    Column("owner", Text, nullable=False),
    Column("owned_until", Float, nullable=False),
    Column("key_id", Text, nullable=False, server_default=""),
    Column("retry_of", Text),
    Column("output_seconds", Float),
    Column("webhooks", Text, nullable=False, server_default="[]"),
    _partial("batches_open", "state IN ('validating', 'in_progress', 'finalizing')", "seq"),
    sqlite_autoincrement=True,
)

batch_faults = Table(
    "batch_faults",
    metadata,
    Column("batch_id", Text, primary_key=True),
    Column("line", Integer, primary_key=True),
    Column("custom_id", Text, nullable=False),
    Column("status", Integer, nullable=False),
    Column("error", Text, nullable=False),
)

uploads = Table(
    "uploads",
    metadata,
    Column("upload_id", Text, primary_key=True),
    Column("key_id", Text, nullable=False),
    Column("purpose", Text, nullable=False),
    Column("filename", Text, nullable=False),
    Column("size_bytes", LONG, nullable=False),
    Column("created_at", Float, nullable=False),
    Column("expires_at", Float, nullable=False),
    Column("file_seconds", Float),
    Column("state", Text, nullable=False),
    Column("file_id", Text),
    Column("part_ids", Text, nullable=False),
    Column("clean_at", Float, nullable=False),
    Index("uploads_to_clean", "clean_at"),
)
"""At `clean_at` what the upload's parts are made of is removed, and later the upload itself."""

upload_parts = Table(
    "upload_parts",
    metadata,
    Column("upload_id", Text, primary_key=True),
    Column("part_id", Text, primary_key=True),
    Column("size_bytes", LONG, nullable=False),
)

deliveries = Table(
    "deliveries",
    metadata,
    Column("event_id", Text, primary_key=True),
    Column("endpoint", Text, primary_key=True),
    Column("kind", Text, nullable=False),
    Column("batch_id", Text, nullable=False),
    Column("created_at", Float, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("next_at", Float),
    Column("state", Text, nullable=False),
    Column("ended_at", Float),
    Column("error", Text),
    _partial("deliveries_due", "next_at IS NOT NULL", "endpoint", "next_at"),
)
"""What webhooks are told. `next_at` is when one is tried next; none where that has ended."""

duties = Table(
    "duties",
    metadata,
    Column("name", Text, primary_key=True),
    Column("owner", Text, nullable=False),
    Column("owned_until", Float, nullable=False),
)
"""What one replica at a time does."""

api_keys = Table(
    "api_keys",
    metadata,
    Column("seq", LONG, primary_key=True),
    Column("key_id", Text, nullable=False, unique=True),
    Column("name", Text, nullable=False, unique=True),
    Column("secret_hash", Text, nullable=False, unique=True),
    Column("scopes", Text, nullable=False),
    Column("weight", Float, nullable=False),
    Column("max_waiting_jobs", LONG),
    Column("tokens_per_minute", LONG),
    Column("created_at", Float, nullable=False),
    Column("disabled_at", Float),
    sqlite_autoincrement=True,
)
