"""The tables, as the newest migration leaves them."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
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
BIG = BigInteger().with_variant(Integer(), "sqlite")

MODELS = Table(
    "models",
    METADATA,
    # Grows with every registration and is never used again: the highest is the newest.
    Column("id", BIG, primary_key=True, autoincrement=True),
    Column("family", Text, nullable=False),
    Column("version", Text, nullable=False),
    # What is said about the model, and apart from it what only its own page shows.
    Column("body", Text, nullable=False),
    Column("detail", Text, nullable=False, server_default="{}"),
    Column("size_bytes", BIG, nullable=False),
    Column("format", Text, nullable=False, server_default=""),
    Column("runtime", Text, nullable=False, server_default=""),
    # All that a search looks at, casefolded.
    Column("words", Text, nullable=False, server_default=""),
    Column("revision", Integer, nullable=False, server_default="1"),
    Column("etag", Text, nullable=False, server_default=""),
    Column("created_at", Text, nullable=False),
    Column("updated_at", Text, nullable=False),
    UniqueConstraint("family", "version", name="uq_models_family_version"),
    Index("ix_models_family_id", "family", "id"),
    sqlite_autoincrement=True,
)

MODEL_TAGS = Table(
    "model_tags",
    METADATA,
    Column("model_id", BIG, ForeignKey("models.id", ondelete="CASCADE"), primary_key=True),
    Column("tag", Text, primary_key=True),
    Index("ix_model_tags_tag", "tag", "model_id"),
)
"""The labels of each model, for looking models up by one."""

VERSION_TAGS = Table(
    "version_tags",
    METADATA,
    Column("family", Text, primary_key=True),
    Column("tag", Text, primary_key=True),
    Column("model_id", BIG, ForeignKey("models.id", ondelete="CASCADE"), nullable=False),
    Column("updated_at", Text, nullable=False),
    Index("ix_version_tags_model_id", "model_id"),
)
"""Which version of its family a name such as `prod` stands for."""
