"""Files, batches, and the lines of batches that became no job."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

_LONG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Apply this step."""
    op.create_table(
        "files",
        sa.Column("seq", _LONG, primary_key=True),
        sa.Column("file_id", sa.Text(), nullable=False, unique=True),
        sa.Column("purpose", sa.Text(), nullable=False),
        sa.Column("filename", sa.Text(), nullable=False),
        sa.Column("size_bytes", _LONG, nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("expires_at", sa.Float()),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "batches",
        sa.Column("seq", _LONG, primary_key=True),
        sa.Column("batch_id", sa.Text(), nullable=False, unique=True),
        sa.Column("endpoint", sa.Text(), nullable=False),
        sa.Column("input_file_id", sa.Text(), nullable=False),
        sa.Column("output_file_id", sa.Text(), nullable=False, unique=True),
        sa.Column("error_file_id", sa.Text(), nullable=False, unique=True),
        sa.Column("metadata", sa.Text(), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("expires_at", sa.Float(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("cancelling_at", sa.Float()),
        sa.Column("progress", sa.Text(), nullable=False),
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("owned_until", sa.Float(), nullable=False),
        sqlite_autoincrement=True,
    )
    is_open = sa.text("state IN ('validating', 'in_progress', 'finalizing')")
    op.create_index(
        "batches_open", "batches", ["seq"], sqlite_where=is_open, postgresql_where=is_open
    )
    op.create_table(
        "batch_faults",
        sa.Column("batch_id", sa.Text(), primary_key=True),
        sa.Column("line", sa.Integer(), primary_key=True),
        sa.Column("custom_id", sa.Text(), nullable=False),
        sa.Column("status", sa.Integer(), nullable=False),
        sa.Column("error", sa.Text(), nullable=False),
    )
