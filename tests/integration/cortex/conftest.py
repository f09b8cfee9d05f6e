"""Stores of every kind and real servers, for CORTEX's integration tests."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest
from cortex_tools import LEASE, Cortex, StoreFactory, StoreTools, TurnableClock, running_cortex
from postgres_tools import Postgres, any_server

from mnemos.cortex.notifier import LocalNotifier
from mnemos.cortex.settings import CortexSettings
from mnemos.cortex.sql.postgres.store import PostgresStore
from mnemos.cortex.sql.sqlite_store import SqliteStore
from mnemos.cortex.store import Store


@pytest.fixture
def clock() -> TurnableClock:
    return TurnableClock()


@pytest.fixture
def notifier() -> LocalNotifier:
    return LocalNotifier()


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    with any_server() as url:
        yield Postgres(url)


@pytest.fixture
def postgres_url(postgres: Postgres) -> Iterator[str]:
    with postgres.database() as url:
        yield url


@pytest.fixture
def postgres_empty(postgres: Postgres) -> Iterator[str]:
    """A database without tables."""
    with postgres.database(template="template0") as url:
        yield url


@pytest.fixture
def sqlite_factory(tmp_path: Path, clock: TurnableClock, notifier: LocalNotifier) -> StoreFactory:
    def open_store() -> AbstractAsyncContextManager[Store]:
        return SqliteStore(
            tmp_path / "data", notifier, lease_seconds=LEASE, clock=clock, random=lambda: 0.5
        )

    return open_store


@pytest.fixture
def postgres_factory(
    postgres_url: str, clock: TurnableClock, notifier: LocalNotifier
) -> StoreFactory:
    def open_store() -> AbstractAsyncContextManager[Store]:
        return PostgresStore(
            postgres_url, notifier, lease_seconds=LEASE, clock=clock, random=lambda: 0.5
        )

    return open_store


@pytest.fixture(params=["sqlite", "postgres"])
def store_factory(request: pytest.FixtureRequest) -> StoreFactory:
    """Open the store under test; called again, it opens the same data."""
    factory: StoreFactory = request.getfixturevalue(f"{request.param}_factory")
    return factory


@pytest.fixture
async def tools(
    store_factory: StoreFactory, clock: TurnableClock, notifier: LocalNotifier
) -> AsyncIterator[StoreTools]:
    async with store_factory() as store:
        yield StoreTools(store, clock, notifier)


@pytest.fixture
def store(tools: StoreTools) -> Store:
    return tools.store


@pytest.fixture
def settings(tmp_path: Path) -> CortexSettings:
    return CortexSettings(data_dir=tmp_path / "cortex", http_port=0, grpc_port=0)


@pytest.fixture
async def cortex(settings: CortexSettings) -> AsyncIterator[Cortex]:
    async with running_cortex(settings) as cortex:
        yield cortex
