"""Whose a job is, and whether it is a batch's."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply this step: what is there was submitted without a key, and counts as online."""
    op.add_column("lanes", sa.Column("key_id", sa.Text(), nullable=False, server_default=""))
    op.add_column(
        "lanes", sa.Column("is_batch", sa.Boolean(), nullable=False, server_default=sa.false())
    )
    op.create_index("lanes_by_key", "lanes", ["key_id"])
    op.add_column("jobs", sa.Column("key_id", sa.Text()))
    condition = sa.text("key_id IS NOT NULL")
    op.create_index(
        "jobs_by_owner",
        "jobs",
        ["key_id", "seq"],
        sqlite_where=condition,
        postgresql_where=condition,
    )
