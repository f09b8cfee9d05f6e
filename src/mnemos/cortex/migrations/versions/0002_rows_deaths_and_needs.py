"""Rows of batches, engine deaths, and what jobs turned out to need."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_COUNT_ROWS = """
UPDATE jobs SET row_count = COALESCE((
    SELECT json_array_length(input, '$.inputs') FROM job_inputs WHERE job_seq = jobs.seq
), 0) WHERE job_type IN ('batch_inference', 'evaluation')
"""


def upgrade() -> None:
    """Apply this step."""
    op.add_column(
        "lanes", sa.Column("measured", sa.Boolean(), nullable=False, server_default=sa.false())
    )
    for name in ("engine_crashes", "row_count", "void_attempts"):
        _add_number("jobs", name)
    for name in ("offered_memory_mb", "offered_gpu_memory_mb"):
        _add_number("workers", name)
    if op.get_bind().dialect.name == "sqlite":  # no older CORTEX kept jobs elsewhere
        op.execute(_COUNT_ROWS)


def _add_number(table: str, name: str) -> None:
    op.add_column(table, sa.Column(name, sa.Integer(), nullable=False, server_default="0"))
