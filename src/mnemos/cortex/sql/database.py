"""Opening the SQLite file: its lock, its schema, its connections."""

from __future__ import annotations

import fcntl
import os
import sqlite3
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from sqlalchemy import create_engine
from sqlalchemy.pool import NullPool

from ..errors import StartError, StorageUnavailableError
from .engine import Parameters
from .many import Among, Many, Values
from .migrating import upgrade

DATABASE_NAME = "cortex.db"
LOCK_NAME = "cortex.lock"
BUSY_TIMEOUT_MS = 5000
CHECKPOINT_PAGES = 4000
"""A page that is written often goes to the file itself once for so many pages of the log: 16 MB."""


class DirectoryLock:
    """Makes sure that one CORTEX alone uses a data directory. The kernel frees it on any exit."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._descriptor: int | None = None

    def acquire(self) -> None:
        """Take the lock, making the directory. Raises StartError, in one sentence."""
        path = self._directory / LOCK_NAME
        try:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StartError(
                f"The data directory {self._directory} cannot be used: {error.strerror}."
            ) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(descriptor)
            raise StartError(
                f"Another CORTEX already uses the data directory {self._directory}."
            ) from error
        self._descriptor = descriptor

    def release(self) -> None:
        """Let go of the lock. Idempotent."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def migrate(database: Path, revision: str = "head") -> None:
    """Bring the schema up to date. Raises StartError when the file is not CORTEX's to use.

    Only tests stop at an older `revision`.
    """
    engine = create_engine(f"sqlite:///{database}", poolclass=NullPool)
    try:
        with engine.begin() as connection:
            upgrade(connection, revision)
    except Exception as error:
        reason = str(getattr(error, "orig", None) or error).splitlines()[0]
        raise StartError(f"The database {database} cannot be opened: {reason}.") from error
    finally:
        engine.dispose()


class SqliteConnection(sqlite3.Connection):
    """The Connection of the file."""

    def __init__(self, *words: Any, **options: Any) -> None:
        super().__init__(*words, **options)
        self.lanes: dict[tuple[Any, ...], int] = {}

    def write_many(self, statement: Many, rows: Sequence[Values], /) -> None:
        """Execute a statement that returns nothing for many rows, in their order."""
        self.executemany(statement.sqlite, rows)

    def among(
        self, statement: Among, keys: Collection[Any], others: Parameters, /
    ) -> sqlite3.Cursor:
        """Execute a statement for many keys."""
        return self.execute(statement.sqlite, statement.for_sqlite({**others, "keys": keys}))

    def flush(self) -> None:
        """Nothing waits."""

    def roll_back(self, savepoint: str = "") -> None:
        """Undo what was done since the transaction, or a savepoint in it, began."""
        self.lanes.clear()
        self.execute(f"ROLLBACK TO {savepoint}" if savepoint else "ROLLBACK")


def connect(database: Path, *, read_only: bool) -> SqliteConnection:
    """Open a connection in autocommit mode whose rows answer to column names.

    The caller sees to it that one thread at a time uses it.
    """
    connection = sqlite3.connect(
        database,
        timeout=BUSY_TIMEOUT_MS / 1000,
        isolation_level=None,
        check_same_thread=False,
        cached_statements=256,
        factory=SqliteConnection,
    )
    connection.row_factory = sqlite3.Row
    try:
        connection.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}")
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute("PRAGMA temp_store = MEMORY")
        connection.execute("PRAGMA cache_size = -16384")
        if read_only:
            connection.execute("PRAGMA query_only = ON")
        else:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}")
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def storage_error(error: sqlite3.Error) -> StorageUnavailableError:
    """Say in one sentence why the database could not be used."""
    return StorageUnavailableError(f"CORTEX cannot use its database: {error}.")


def is_storage_failure(error: sqlite3.Error) -> bool:
    """Say whether the disk, and not the statement, is at fault."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    return code in {
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_CORRUPT,
        sqlite3.SQLITE_NOTADB,
        sqlite3.SQLITE_PERM,
    }
