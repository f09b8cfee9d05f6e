"""Data of an earlier version is brought up to date, and back."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx2
import sqlalchemy
from alembic import command
from alembic.config import Config

from mnemos.engram.digest import manifest_checksum
from mnemos.genome.client import GenomeClient
from mnemos.genome.models import ModelSpec
from mnemos.genome.server import GenomeServer
from mnemos.genome.settings import GenomeSettings

MakeBody = Callable[..., dict[str, Any]]
MODELS = "/api/v1/models"


async def test_models_of_the_first_version_are_kept(tmp_path: Path, make_body: MakeBody) -> None:
    """Its tables, and a row as it wrote them; what it took and is refused now can still be read."""
    path = tmp_path / "genome.sqlite"
    engine = sqlalchemy.create_engine(f"sqlite:///{path}")
    with engine.begin() as connection:
        migrate(connection, "0001")
    engine.dispose()
    files = [{"path": name, "size": 1, "sha256": "a" * 64} for name in ("A", "a")]
    whole = ModelSpec.model_validate(make_body(tags=["old"])).model_dump(mode="json")
    body = {name: value for name, value in whole.items() if name != "signature"}
    body |= {"files": files, "input_schema": {"$ref": "#/$defs/missing"}}
    sums = {"size_bytes": 2, "checksum": manifest_checksum((n, 1, "a" * 64) for n in ("A", "a"))}
    body["artifact"] |= sums
    moment, shown = "2026-01-02T03:04:05+00:00", "2026-01-02T03:04:05Z"
    with closing(sqlite3.connect(path)) as database:
        database.execute(
            "INSERT INTO models VALUES (7, 'tiny', '1', ?, 42, ?, ?)",
            (json.dumps(body), moment, moment),
        )
        database.execute("INSERT INTO model_tags VALUES (7, 'old')")
        database.commit()
    settings = GenomeSettings(data_dir=tmp_path, http_port=0)
    async with (
        GenomeServer(settings) as server,
        httpx2.AsyncClient(base_url=server.url, trust_env=False) as http,
    ):
        kept = await http.get(f"{MODELS}/tiny")
        added = {"revision": 1, "created_at": shown, "updated_at": shown,
                 "asked_tag": "latest", "signature": None}  # fmt: skip
        assert kept.json() == body | added
        assert len(kept.headers["etag"]) > 10
        async with GenomeClient(server.url) as client:
            assert [kept.path for kept in (await client.get("tiny")).files] == ["A", "a"]
        for params in ({"tag": "old"}, {"q": "TINY"}, {"format": "safetensors"}):
            assert len((await http.get(MODELS, params=params)).json()["models"]) == 1
        put = await http.put(f"{MODELS}/tiny", params={"version": "1"}, json={"description": "new"})
        assert put.json()["files"] == files
    engine = sqlalchemy.create_engine(f"sqlite:///{path}")
    with engine.begin() as connection:
        migrate(connection, "0001", down=True)
        row = connection.execute(sqlalchemy.text("SELECT * FROM models")).one()
    engine.dispose()
    assert json.loads(row.body) == body | {"description": "new"}
    assert len(row) == 7


def migrate(connection: sqlalchemy.Connection, revision: str, *, down: bool = False) -> None:
    config = Config()
    config.set_main_option("script_location", "mnemos.genome:migrations")
    config.attributes |= {"connection": connection, "version_table": "alembic_version"}
    (command.downgrade if down else command.upgrade)(config, revision)
