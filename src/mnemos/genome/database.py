"""A database that is spoken to in threads of its own, one transaction at a time in each."""

from __future__ import annotations

import abc
import asyncio
import functools
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError

from .errors import GenomeUnavailableError

T = TypeVar("T")

THREADS = 4
WRITES = "mnemos_writes"
"""The execution option of a transaction that writes."""
_CLOSE_SECONDS = 10.0
_ONE_AT_A_TIME = threading.Lock()  # Alembic keeps its context in module globals


class Database(abc.ABC):
    """An open database. `read` and `write` run a function in one transaction, in a thread.

    Transactions that write follow one another, also those of other processes: what one of them
    has read stays true until it commits.
    """

    version_table: str
    answer_seconds = 20.0
    """How long a caller waits for a database that says nothing."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="genome-database")

    async def open(self) -> None:
        """Make or migrate the tables. Raises GenomeUnavailableError, in one sentence."""
        await self._in_thread(self._prepare, None)

    async def close(self) -> None:
        """Close every connection; what is under way is finished first."""
        async with asyncio.timeout(_CLOSE_SECONDS):
            await asyncio.to_thread(self._threads.shutdown)
            await asyncio.to_thread(self._engine.dispose)

    async def read(self, work: Callable[[Connection], T]) -> T:
        """Run `work` on one consistent view. Raises GenomeUnavailableError."""
        reading = functools.partial(self._run, work, writes=False)
        return await self._in_thread(reading, self.answer_seconds)

    async def write(self, work: Callable[[Connection], T]) -> T:
        """Run `work` alone; it is durable on return. Raises GenomeUnavailableError.

        Cancelling stops the waiting and not the transaction.
        """
        writing = functools.partial(self._run, work, writes=True)
        return await self._in_thread(writing, self.answer_seconds)

    async def check(self) -> None:
        """Return when the database can be written. Raises GenomeUnavailableError."""
        await self.write(self._touch)

    def _options(self, *, writes: bool) -> dict[str, Any]:
        """What SQLAlchemy is told about a transaction; the engine's "begin" event sees it."""
        return {WRITES: writes}

    @abc.abstractmethod
    def _touch(self, connection: Connection) -> None:
        """Do what only a database that takes writes can do."""

    @abc.abstractmethod
    def _explain(self, error: BaseException) -> str:
        """Say in one sentence, without secrets, that the database fails."""

    @abc.abstractmethod
    def _foreign(self, error: CommandError) -> str:
        """Say in one sentence that the tables are not of this version."""

    async def _in_thread(self, work: Callable[[], T], seconds: float | None) -> T:
        loop = asyncio.get_running_loop()
        waiting = asyncio.timeout(seconds)
        try:
            async with waiting:
                return await loop.run_in_executor(self._threads, work)
        except (DBAPIError, OSError) as error:
            if waiting.expired():
                raise GenomeUnavailableError("GENOME's database is too slow to answer.") from error
            cause = error.orig if isinstance(error, DBAPIError) else error
            raise GenomeUnavailableError(self._explain(cause or error)) from error

    def _run(self, work: Callable[[Connection], T], *, writes: bool) -> T:
        with self._engine.connect() as connection:
            connection = connection.execution_options(**self._options(writes=writes))
            with connection.begin():
                return work(connection)

    def _prepare(self) -> None:
        config = Config()
        config.set_main_option("script_location", "mnemos.genome:migrations")
        config.attributes["version_table"] = self.version_table
        try:
            self._run(functools.partial(_upgrade, config), writes=True)
        except CommandError as error:
            raise GenomeUnavailableError(self._foreign(error)) from error


def _upgrade(config: Config, connection: Connection) -> None:
    config.attributes["connection"] = connection
    with _ONE_AT_A_TIME:
        command.upgrade(config, "head")
