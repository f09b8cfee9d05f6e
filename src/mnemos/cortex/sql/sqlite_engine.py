"""SQLite as the store's database: one file, one process."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection
from functools import partial
from pathlib import Path

from ..clock import Clock
from ..errors import StorageUnavailableError
from .database import connect, is_storage_failure, storage_error
from .engine import Begun, Connection, Touched


class SqliteEngine:
    """The Engine of one file. It has one writer, so nothing is locked and nobody else is told."""

    shared = False

    def __init__(self, database: Path, clock: Clock) -> None:
        self.connect_writer = partial(connect, database, read_only=False)
        self.connect_reader = partial(connect, database, read_only=True)
        self._clock = clock

    def begin(self, connection: Connection, touched: Touched) -> Begun:
        """Begin to write."""
        connection.execute("BEGIN IMMEDIATE")
        return Begun(self._clock)

    def hurry(self, connection: Connection) -> None:
        """A file answers at once."""

    def commit(self, connection: Connection, topics: Collection[str]) -> None:
        """Make the transaction durable."""
        connection.execute("COMMIT")

    def was_committed(self, connection: Connection, receipt: str) -> bool:
        """Never asked: a file's connection is not lost."""
        return False

    def begin_reading(self, connection: Connection) -> None:
        """Begin to read from one snapshot."""
        connection.execute("BEGIN")

    def now(self, connection: Connection) -> float:
        """The process's clock."""
        return self._clock()

    def spoils_all(self, error: Exception) -> bool:
        """Whether the disk is at fault."""
        return isinstance(error, sqlite3.Error) and is_storage_failure(error)

    def may_pass(self, error: Exception) -> bool:
        """Nothing of a file passes at once."""
        return False

    def is_lost(self, error: Exception) -> bool:
        """A file's connection stays."""
        return False

    def explain(self, error: Exception) -> StorageUnavailableError | None:
        """Say what SQLite said."""
        return storage_error(error) if isinstance(error, sqlite3.Error) else None
