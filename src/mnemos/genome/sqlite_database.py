"""The SQLite file: opened, migrated, and spoken to in threads of its own."""

from __future__ import annotations

import asyncio
import functools
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.exc import DBAPIError

from .errors import GenomeUnavailableError

T = TypeVar("T")

THREADS = 4
BUSY_SECONDS = 10
_WRITES = "mnemos_writes"
_CLOSE_SECONDS = 10.0
_ONE_AT_A_TIME = threading.Lock()  # Alembic keeps its context in module globals


class SqliteDatabase:
    """An open database. `read` and `write` run a function in one transaction, in a thread."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="genome-sqlite")
        self._engine = _make_engine(path)

    async def open(self) -> None:
        """Make or migrate the file. Raises GenomeUnavailableError, in one sentence."""
        await self._in_thread(self._migrate)

    async def close(self) -> None:
        """Close every connection; what is under way is finished first."""
        async with asyncio.timeout(_CLOSE_SECONDS):
            await asyncio.to_thread(self._threads.shutdown)
            await asyncio.to_thread(self._engine.dispose)

    async def read(self, work: Callable[[Connection], T]) -> T:
        """Run `work` on one consistent view. Raises GenomeUnavailableError."""
        return await self._in_thread(functools.partial(self._run, work, writes=False))

    async def write(self, work: Callable[[Connection], T]) -> T:
        """Run `work` alone; it is durable on return. Raises GenomeUnavailableError.

        Cancelling stops the waiting and not the transaction.
        """
        return await self._in_thread(functools.partial(self._run, work, writes=True))

    async def _in_thread(self, work: Callable[[], T]) -> T:
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._threads, work)
        except (DBAPIError, OSError) as error:
            cause = error.orig if isinstance(error, DBAPIError) else error
            raise GenomeUnavailableError(
                f"GENOME cannot use its data in {self._path}: {cause}."
            ) from error

    def _run(self, work: Callable[[Connection], T], *, writes: bool) -> T:
        with self._engine.connect() as connection:
            connection = connection.execution_options(**{_WRITES: writes})
            with connection.begin():
                return work(connection)

    def _migrate(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        config = Config()
        config.set_main_option("script_location", "mnemos.genome:migrations")
        try:
            self._run(functools.partial(_upgrade, config), writes=True)
        except CommandError as error:
            raise GenomeUnavailableError(
                f"The data in {self._path} was written by another version of GENOME ({error})."
            ) from error


def _upgrade(config: Config, connection: Connection) -> None:
    config.attributes["connection"] = connection
    with _ONE_AT_A_TIME:
        command.upgrade(config, "head")


def _make_engine(path: Path) -> Engine:
    engine = create_engine(
        f"sqlite:///{path}", connect_args={"timeout": BUSY_SECONDS}, pool_size=THREADS
    )
    event.listen(engine, "connect", _prepare)
    event.listen(engine, "begin", _begin)
    return engine


def _prepare(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # the "begin" event decides, not the driver
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}")


def _begin(connection: Connection) -> None:
    writes = connection.get_execution_options().get(_WRITES, False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
