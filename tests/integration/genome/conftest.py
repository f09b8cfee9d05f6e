"""GENOME over real HTTP on a free port, in SQLite and PostgreSQL, and what to register."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from postgres_tools import EMPTY, Postgres, any_server
from pydantic import SecretStr

from mnemos.genome.client import GenomeClient
from mnemos.genome.server import GenomeServer
from mnemos.genome.settings import GenomeSettings

MakeBody = Callable[..., dict[str, Any]]


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    with any_server() as url:
        yield Postgres(url, template=None)


@pytest.fixture
def postgres_url(postgres: Postgres) -> Iterator[str]:
    """A database without tables."""
    with postgres.database(template=EMPTY) as url:
        yield url


@pytest.fixture
def sqlite_settings(tmp_path: Path) -> GenomeSettings:
    return GenomeSettings(data_dir=tmp_path, http_port=0)


@pytest.fixture
def postgres_settings(postgres_url: str) -> GenomeSettings:
    return GenomeSettings(database_url=SecretStr(postgres_url), http_port=0)


@pytest.fixture(params=["sqlite", "postgres"])
def settings(request: pytest.FixtureRequest) -> GenomeSettings:
    """The settings of a GENOME with no models, in each kind of database."""
    chosen: GenomeSettings = request.getfixturevalue(f"{request.param}_settings")
    return chosen


@pytest.fixture
async def server(settings: GenomeSettings) -> AsyncIterator[GenomeServer]:
    """A running GENOME with no models."""
    async with GenomeServer(settings) as running:
        yield running


@pytest.fixture
async def http(server: GenomeServer) -> AsyncIterator[httpx2.AsyncClient]:
    """A plain HTTP client, for what GENOME's own client would never send."""
    async with httpx2.AsyncClient(base_url=server.url, trust_env=False) as client:
        yield client


@pytest.fixture
async def genome(server: GenomeServer) -> AsyncIterator[GenomeClient]:
    """GENOME's own client."""
    async with GenomeClient(server.url) as client:
        yield client


@pytest.fixture
def make_body() -> MakeBody:
    """A sound description; keyword arguments replace its fields."""

    def make(family: str = "tiny", version: str = "1", **changes: Any) -> dict[str, Any]:
        body: dict[str, Any] = {
            "family": family,
            "version": version,
            "artifact": {"format": "safetensors"},
            "files": [
                {"path": "config.json", "size": 2, "sha256": "a" * 64},
                {"path": "model.safetensors", "size": 40, "sha256": "b" * 64},
            ],
        }
        return body | changes

    return make
