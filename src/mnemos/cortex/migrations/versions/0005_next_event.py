"""Each job knows the number of its log's next line."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_LONG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_COUNT_LINES = """
UPDATE jobs SET next_event = COALESCE(
    (SELECT MAX(sequence) + 1 FROM job_events WHERE job_seq = jobs.seq), pruned_lines
)
"""


def upgrade() -> None:
    """Apply this step."""
    op.add_column("jobs", sa.Column("next_event", _LONG, nullable=False, server_default="0"))
    op.execute(_COUNT_LINES)
