"""What the store asks of a database: SQLite and PostgreSQL differ here, and in little else.

Statements are written once, with `:name` parameters. What only PostgreSQL must be told stands in
a comment that SQLite passes over: see LOCK.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from ..errors import StorageUnavailableError
from .many import Among, Many, Values

Parameters = Mapping[str, Any]

LOCK = "/*+ FOR NO KEY UPDATE */"
"""Ends a statement whose rows the operation decides on: nobody else changes them meanwhile."""

LOCK_FREE = "/*+ FOR NO KEY UPDATE SKIP LOCKED */"
"""The same, without the rows that another transaction holds at the moment."""


class Row(Protocol):
    """A row whose columns are read by name."""

    def __getitem__(self, name: str, /) -> Any: ...
    def keys(self) -> Iterable[str]: ...


class Cursor(Protocol):
    """The rows of a statement."""

    def fetchone(self) -> Any: ...
    def fetchall(self) -> list[Any]: ...
    def __iter__(self) -> Iterator[Any]: ...


class Connection(Protocol):
    """A connection in autocommit mode, used by one thread at a time.

    What a statement returned is to be read before the next one is executed. What is written for
    many rows may wait for the next statement, or for `flush`; a rollback drops it.
    """

    lanes: dict[tuple[Any, ...], int]
    """Lanes that are known to be there, by what they demand; forgotten at a rollback."""

    @property
    def in_transaction(self) -> bool: ...
    def execute(self, statement: str, parameters: Parameters = ..., /) -> Cursor: ...
    def write_many(self, statement: Many, rows: Sequence[Values], /) -> None: ...
    def among(self, statement: Among, keys: Collection[Any], others: Parameters, /) -> Cursor: ...
    def flush(self) -> None: ...
    def roll_back(self, savepoint: str = "") -> None: ...
    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Touched:
    """What a commit's operations will change, as far as it is known before."""

    workers: Collection[str] = ()
    jobs: Collection[str] = ()
    new_jobs: int = 0
    """How many it may add."""


@dataclass(frozen=True, slots=True)
class Begun:
    """A transaction that has begun: its clock, and what tells later whether it was committed."""

    now: Callable[[], float]
    receipt: str = ""
    numbers: Sequence[int] = ()
    """For jobs that it may add, where they are taken beforehand."""


class Engine(Protocol):
    """A database. Its methods are called in the writer's and the readers' threads."""

    shared: bool
    """Whether others may write to the database at the same time."""

    def connect_writer(self) -> Connection:
        """Open the connection that writes."""

    def connect_reader(self) -> Connection:
        """Open a connection that reads."""

    def begin(self, connection: Connection, touched: Touched) -> Begun:
        """Begin to write, and lock what will be touched in an order that all keep to."""

    def hurry(self, connection: Connection) -> AbstractContextManager[object] | None:
        """Within it operations run without savepoints; None where nothing would be gained."""

    def commit(self, connection: Connection, topics: Collection[str]) -> None:
        """Make the transaction durable, and tell other processes of `topics`."""

    def was_committed(self, connection: Connection, receipt: str) -> bool:
        """Say what became of a transaction whose connection was lost while it was committed."""

    def begin_reading(self, connection: Connection) -> None:
        """Begin to read from one snapshot."""

    def now(self, connection: Connection) -> float:
        """The store's time, in seconds since the epoch."""

    def spoils_all(self, error: Exception) -> bool:
        """Whether the database, and not the statement, is at fault."""

    def may_pass(self, error: Exception) -> bool:
        """Whether the same transaction may do well when it is done over."""

    def is_lost(self, error: Exception) -> bool:
        """Whether that takes another connection."""

    def explain(self, error: Exception) -> StorageUnavailableError | None:
        """Say in one sentence why the database could not be used; None for others' errors."""


def fields_of(row: Row) -> dict[str, Any]:
    """All columns of a row."""
    if isinstance(row, dict):
        return dict(row)
    return dict(zip(row.keys(), row, strict=True))  # type: ignore[call-overload]  # sqlite3.Row
