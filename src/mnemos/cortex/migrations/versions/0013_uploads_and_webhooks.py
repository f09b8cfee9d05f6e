"""Uploads in parts, files that go in time, whose they are, and who is told when a batch ends."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

_LONG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Apply this step: what is there belongs to no key."""
    _extend_files_and_batches()
    op.create_table(
        "uploads",
        sa.Column("upload_id", sa.Text(), primary_key=True),
        sa.Column("key_id", sa.Text(), nullable=False),
        sa.Column("purpose", sa.Text(), nullable=False),
        sa.Column("filename", sa.Text(), nullable=False),
        sa.Column("size_bytes", _LONG, nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("expires_at", sa.Float(), nullable=False),
        sa.Column("file_seconds", sa.Float()),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("file_id", sa.Text()),
        sa.Column("part_ids", sa.Text(), nullable=False),
        sa.Column("clean_at", sa.Float(), nullable=False),
    )
    op.create_index("uploads_to_clean", "uploads", ["clean_at"])
    op.create_table(
        "upload_parts",
        sa.Column("upload_id", sa.Text(), primary_key=True),
        sa.Column("part_id", sa.Text(), primary_key=True),
        sa.Column("size_bytes", _LONG, nullable=False),
    )
    op.create_table(
        "deliveries",
        sa.Column("event_id", sa.Text(), primary_key=True),
        sa.Column("endpoint", sa.Text(), primary_key=True),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("batch_id", sa.Text(), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("next_at", sa.Float()),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("ended_at", sa.Float()),
        sa.Column("error", sa.Text()),
    )
    waits = sa.text("next_at IS NOT NULL")
    op.create_index(
        "deliveries_due",
        "deliveries",
        ["endpoint", "next_at"],
        sqlite_where=waits,
        postgresql_where=waits,
    )
    op.create_table(
        "duties",
        sa.Column("name", sa.Text(), primary_key=True),
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("owned_until", sa.Float(), nullable=False),
    )


def _extend_files_and_batches() -> None:
    for table in ("files", "batches"):
        op.add_column(table, sa.Column("key_id", sa.Text(), nullable=False, server_default=""))
    op.add_column(
        "files", sa.Column("whole", sa.Boolean(), nullable=False, server_default=sa.true())
    )
    expires = sa.text("expires_at IS NOT NULL")
    op.create_index(
        "files_expiring", "files", ["expires_at"], sqlite_where=expires, postgresql_where=expires
    )
    op.add_column("batches", sa.Column("retry_of", sa.Text()))
    op.add_column("batches", sa.Column("output_seconds", sa.Float()))
    op.add_column("batches", sa.Column("webhooks", sa.Text(), nullable=False, server_default="[]"))
