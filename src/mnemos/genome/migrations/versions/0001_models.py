"""The first tables: models and their tags."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "models",
        sa.Column("id", BIG, primary_key=True, autoincrement=True),
        sa.Column("family", sa.Text, nullable=False),
        sa.Column("version", sa.Text, nullable=False),
        sa.Column("body", sa.Text, nullable=False),
        sa.Column("size_bytes", BIG, nullable=False),
        sa.Column("created_at", sa.Text, nullable=False),
        sa.Column("updated_at", sa.Text, nullable=False),
        sa.UniqueConstraint("family", "version", name="uq_models_family_version"),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "model_tags",
        sa.Column("model_id", BIG, sa.ForeignKey("models.id", ondelete="CASCADE")),
        sa.Column("tag", sa.Text),
        sa.PrimaryKeyConstraint("model_id", "tag"),
    )
    op.create_index("ix_model_tags_tag", "model_tags", ["tag", "model_id"])


def downgrade() -> None:
    """Drop the tables, and what is in them."""
    op.drop_table("model_tags")
    op.drop_table("models")
