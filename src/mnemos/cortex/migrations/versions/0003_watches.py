"""Which stream of actions a worker opened last."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply this step."""
    op.create_table(
        "watches",
        sa.Column(
            "worker_id",
            sa.Text(),
            sa.ForeignKey("workers.worker_id", ondelete="CASCADE"),
            primary_key=True,
        ),
        sa.Column("instance_id", sa.Text(), nullable=False),
        sa.Column("watch_id", sa.Text(), nullable=False),
    )
