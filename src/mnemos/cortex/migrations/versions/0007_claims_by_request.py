"""What a claim was answered is found by its request, however many jobs its worker had."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply this step."""
    asked = sa.text("claim_request_id IS NOT NULL")
    op.create_index(
        "jobs_by_request",
        "jobs",
        ["claim_request_id"],
        sqlite_where=asked,
        postgresql_where=asked,
    )
