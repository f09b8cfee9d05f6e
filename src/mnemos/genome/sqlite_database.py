"""The registry's database as one SQLite file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from alembic.util import CommandError
from sqlalchemy import Connection, Engine, create_engine, event

from .database import THREADS, WRITES, Database

BUSY_SECONDS = 10


class SqliteDatabase(Database):
    """A file that is made when it is opened. Several processes may share it."""

    version_table = "alembic_version"

    def __init__(self, path: Path) -> None:
        super().__init__(_make_engine(path))
        self._path = path

    def _prepare(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        super()._prepare()

    def _touch(self, connection: Connection) -> None:
        # Reserving the write lock and a page says what a read cannot: the disk takes writes.
        connection.exec_driver_sql("PRAGMA user_version = 0")

    def _explain(self, error: BaseException) -> str:
        return f"GENOME cannot use its data in {self._path}: {error}."

    def _foreign(self, error: CommandError) -> str:
        return f"The data in {self._path} was written by another version of GENOME ({error})."


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
    writes = connection.get_execution_options().get(WRITES, False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
