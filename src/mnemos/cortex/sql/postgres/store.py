"""The store in a PostgreSQL database, which other CORTEX processes may share."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import Any, Self

import psycopg

from ...clock import Clock
from ...ids import new_id
from ...notifier import Notifier
from .. import reaping
from ..engine import Connection
from ..store import SqlStore
from ..transaction import Transaction
from .engine import PostgresEngine
from .listener import Listener
from .opening import prepare, unusable


class PostgresStore(SqlStore):
    """The Store of one replica on the database at `url`. An async context manager.

    Entering migrates the schema, while other replicas wait for it, and raises StartError when the
    database cannot be used. Running attempts get one whole lease of grace when no CORTEX could
    reach the database until then. Leaving commits what was asked for.
    """

    def __init__(
        self, url: str, notifier: Notifier, *, clock: Clock | None = None, **options: Any
    ) -> None:
        self._url = url
        replica = new_id("ctx")
        self._listener = Listener(url, replica, notifier)
        engine = PostgresEngine(url, replica, self._grant_grace, clock, self._listener.wake_all)
        super().__init__(engine, notifier, **options)

    async def __aenter__(self) -> Self:
        try:
            return await super().__aenter__()
        except psycopg.Error as error:
            raise unusable(self._url, error) from error

    async def _open(self, stack: AsyncExitStack) -> None:
        stack.push_async_callback(self._listener.close)
        await asyncio.to_thread(prepare, self._url)
        await self._listener.start()

    def _grant_grace(self, connection: Connection, now: float) -> None:
        reaping.grant_grace(Transaction(connection, now, shared=True), self._lease_seconds)
