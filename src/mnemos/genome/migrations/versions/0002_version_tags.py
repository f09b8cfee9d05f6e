"""Version tags, revisions, ETags, and columns to search by; files apart from what is listed."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
DETAIL = ("files", "input_schema", "signature")
NEW_COLUMNS = (
    ("detail", sa.Text, "{}"),
    ("format", sa.Text, ""),
    ("runtime", sa.Text, ""),
    ("words", sa.Text, ""),
    ("revision", sa.Integer, "1"),
    ("etag", sa.Text, ""),
)


def upgrade() -> None:
    """Add the columns and fill them from what is registered."""
    for name, kind, default in NEW_COLUMNS:
        op.add_column("models", sa.Column(name, kind, nullable=False, server_default=default))
    op.create_index("ix_models_family_id", "models", ["family", "id"])
    op.create_table(
        "version_tags",
        sa.Column("family", sa.Text),
        sa.Column("tag", sa.Text),
        sa.Column("model_id", BIG, sa.ForeignKey("models.id", ondelete="CASCADE"), nullable=False),
        sa.Column("updated_at", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("family", "tag"),
    )
    op.create_index("ix_version_tags_model_id", "version_tags", ["model_id"])
    connection = op.get_bind()
    ids = list(connection.execute(sa.text("SELECT id FROM models")).scalars())
    for model_id in ids:
        _fill(connection, model_id)


def _fill(connection: sa.Connection, model_id: int) -> None:
    query = sa.text("SELECT body, created_at, updated_at FROM models WHERE id = :id")
    row = connection.execute(query, {"id": model_id}).one()
    body: dict[str, Any] = json.loads(row.body)
    detail = {name: body.pop(name, None) for name in DETAIL}
    counted = {"file_count": len(detail["files"]), "signed": False}
    labels = [*body.get("capabilities", ()), *body.get("tags", ())]
    words = [body["family"], body["version"], body["name"], body["description"], *labels]
    values = {
        "id": model_id,
        "body": _text(body | counted),
        "detail": _text(detail),
        "format": body["artifact"]["format"],
        "runtime": body["runtime"]["type"],
        "words": "\n".join(words).casefold().replace("\0", " "),
        "etag": hashlib.sha256(f"{row.body}{row.updated_at}".encode()).hexdigest()[:32],
    }
    change = sa.text(
        "UPDATE models SET body = :body, detail = :detail, format = :format, "
        "runtime = :runtime, words = :words, etag = :etag WHERE id = :id"
    )
    connection.execute(change, values)


def downgrade() -> None:
    """Take version tags and revisions away; everything else is put back as it was."""
    op.drop_table("version_tags")
    op.drop_index("ix_models_family_id", "models")
    connection = op.get_bind()
    for row in list(connection.execute(sa.text("SELECT id, body, detail FROM models"))):
        body = {**json.loads(row.body), **json.loads(row.detail)}
        for name in ("signature", "file_count", "signed"):
            body.pop(name, None)
        connection.execute(
            sa.text("UPDATE models SET body = :body WHERE id = :id"),
            {"id": row.id, "body": _text(body)},
        )
    for name, _, _ in NEW_COLUMNS:
        op.drop_column("models", name)


def _text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
