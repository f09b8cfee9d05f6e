"""The tables, as the newest migration leaves them."""

from __future__ import annotations

from sqlalchemy import (
    Column,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
)

METADATA = MetaData()

MODELS = Table(
    "models",
    METADATA,
    # Grows with every registration and is never used again: the highest is the newest.
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("family", Text, nullable=False),
    Column("version", Text, nullable=False),
    Column("body", Text, nullable=False),
    Column("size_bytes", Integer, nullable=False),
    Column("created_at", Text, nullable=False),
    Column("updated_at", Text, nullable=False),
    UniqueConstraint("family", "version", name="uq_models_family_version"),
    sqlite_autoincrement=True,
)

MODEL_TAGS = Table(
    "model_tags",
    METADATA,
    Column("model_id", ForeignKey("models.id", ondelete="CASCADE"), primary_key=True),
    Column("tag", Text, primary_key=True),
    Index("ix_model_tags_tag", "tag", "model_id"),
)
