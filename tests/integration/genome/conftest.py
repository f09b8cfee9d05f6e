"""GENOME over real HTTP on a free port, in SQLite and PostgreSQL, and what to register."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import httpx2
import pytest
import pytest_asyncio
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


@pytest.fixture(scope="module")
def postgres_url(postgres: Postgres) -> Iterator[str]:
    """A database without tables."""
    with postgres.database(template=EMPTY) as url:
        yield url


@pytest.fixture(scope="module")
def sqlite_settings(tmp_path_factory: pytest.TempPathFactory) -> GenomeSettings:
    return GenomeSettings(data_dir=tmp_path_factory.mktemp("genome"), http_port=0)


@pytest.fixture(scope="module")
def postgres_settings(postgres_url: str) -> GenomeSettings:
    return GenomeSettings(database_url=SecretStr(postgres_url), http_port=0)


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=["sqlite", "postgres"])
async def server(request: pytest.FixtureRequest) -> AsyncIterator[GenomeServer]:
    """A running GENOME on each kind of database, for all tests of a module."""
    settings: GenomeSettings = request.getfixturevalue(f"{request.param}_settings")
    async with GenomeServer(settings) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="module")
async def http(server: GenomeServer) -> AsyncIterator[httpx2.AsyncClient]:
    """A plain HTTP client, for what GENOME's own client would never send."""
    async with httpx2.AsyncClient(base_url=server.url, trust_env=False) as client:
        yield client


@pytest_asyncio.fixture(loop_scope="module")
async def genome(server: GenomeServer) -> AsyncIterator[GenomeClient]:
    """GENOME's own client; what a test registers is gone after it."""
    async with GenomeClient(server.url) as client:
        yield client
        for model in (await client.list(limit=500)).models:
            await client.delete(model.family, model.version, force=True)


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
