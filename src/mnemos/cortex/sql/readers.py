"""Reading beside the writer: a few threads, each with its own connection."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TypeVar

from ..errors import StorageUnavailableError
from .engine import Connection, Engine

T = TypeVar("T")

READER_THREADS = 4


class Readers:
    """A small pool of connections, opened when a thread first needs one, and again when lost."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._pool = ThreadPoolExecutor(READER_THREADS, thread_name_prefix="cortex-reader")
        self._connections: dict[int, Connection] = {}
        self._closed = False

    async def run(self, query: Callable[[Connection], T]) -> T:
        """Run a query in a thread, on one snapshot. Raises StorageUnavailableError."""
        if self._closed:
            raise StorageUnavailableError("CORTEX is shutting down.")
        return await asyncio.get_running_loop().run_in_executor(self._pool, self._run, query)

    async def close(self) -> None:
        """Let running queries finish and close every connection. Idempotent."""
        self._closed = True
        await asyncio.to_thread(self._pool.shutdown, wait=True, cancel_futures=True)
        while self._connections:
            self._connections.popitem()[1].close()

    def _run(self, query: Callable[[Connection], T]) -> T:
        try:
            try:
                return self._read(query)
            except Exception as error:
                if not self._engine.is_lost(error):
                    raise
                self._drop_connection()
                return self._read(query)
        except Exception as error:
            explained = self._engine.explain(error)
            if explained is None:
                raise
            raise explained from error

    def _read(self, query: Callable[[Connection], T]) -> T:
        connection = self._connection()
        self._engine.begin_reading(connection)
        try:
            return query(connection)
        finally:
            if connection.in_transaction:
                connection.execute("COMMIT")

    def _connection(self) -> Connection:
        thread = threading.get_ident()
        connection = self._connections.get(thread)
        if connection is None:
            connection = self._connections[thread] = self._engine.connect_reader()
        return connection

    def _drop_connection(self) -> None:
        connection = self._connections.pop(threading.get_ident(), None)
        if connection is not None:
            with suppress(Exception):  # it is broken, which is why it is dropped
                connection.close()
