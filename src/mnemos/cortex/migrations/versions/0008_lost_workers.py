"""How many workers were lost while a job ran on them."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply this step."""
    op.add_column(
        "jobs", sa.Column("lost_workers", sa.Integer(), nullable=False, server_default="0")
    )
