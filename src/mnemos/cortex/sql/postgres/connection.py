"""A connection to PostgreSQL that takes the store's statements as they are written.

They go to libpq itself, prepared and with parameters as text, and their rows come back in binary:
a driver's cursors would cost more than most of the statements do. The thread that asks waits in
libpq, and lets others run meanwhile.

What is written for many rows waits until something is read, or until the commit: then all that was
written, a table once, is one statement and one round trip.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

import psycopg
from psycopg import errors
from psycopg.adapt import Transformer
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.pq import Escaping, ExecStatus, Format, TransactionStatus
from psycopg.pq.abc import PGresult
from psycopg.rows import dict_row

from ..engine import Parameters
from ..many import Among, Many, Values, text_array

CONNECT_TIMEOUT_SECONDS = 2
PREPARED_STATEMENTS = 400
_LIVENESS = {
    "connect_timeout": str(CONNECT_TIMEOUT_SECONDS),
    "keepalives_idle": "5",
    "keepalives_interval": "2",
    "keepalives_count": "3",
    "tcp_user_timeout": "10000",
    "target_session_attrs": "read-write",
}
"""How soon a host that is gone is noticed; and that only a primary will do."""

_SESSION = b"""
SET synchronous_commit = on; SET idle_in_transaction_session_timeout = '10s';
SET lock_timeout = '5s'; SET statement_timeout = '30s'
"""
_NAME = re.compile(r"(?<![:\w]):([a-z]\w*)")
_ONLY_POSTGRES = re.compile(r"/\*\+(.*?)\*/", re.DOTALL)
_PLACE = re.compile(rb"\$(\d+)")
_WELL = frozenset({ExecStatus.COMMAND_OK, ExecStatus.TUPLES_OK, ExecStatus.EMPTY_QUERY})


@lru_cache(maxsize=1024)
def translate(statement: str) -> tuple[bytes, tuple[str, ...]]:
    """Write a statement of the store as libpq takes it, and name its parameters in their order."""
    text = _ONLY_POSTGRES.sub(r"\1", statement)
    names = tuple(dict.fromkeys(_NAME.findall(text)))
    places = {name: f"${place}" for place, name in enumerate(names, start=1)}
    return _NAME.sub(lambda found: places[found[1]], text).encode(), names


@lru_cache(maxsize=1024)
def as_one(statements: tuple[str, ...]) -> bytes:
    """Write statements on different tables as one; its parameters are theirs, one after another."""
    *others, last = (_numbered(text, first) for text, first in _starts(statements))
    if not others:
        return last
    parts = [b"w%d AS (%b)" % (number, text) for number, text in enumerate(others)]
    return b"WITH " + b", ".join(parts) + b" " + last


def _starts(statements: Iterable[str]) -> Iterator[tuple[bytes, int]]:
    """Each as libpq takes it, and how many parameters there are before its own."""
    first = 0
    for statement in statements:
        text, names = translate(statement)
        yield text, first
        first += len(names)


def _numbered(text: bytes, first: int) -> bytes:
    return _PLACE.sub(lambda found: b"$%d" % (int(found[1]) + first), text)


def _flag(value: bool) -> bytes:
    return b"t" if value else b"f"


def _text(value: str) -> bytes:
    """PostgreSQL cannot keep the character NUL, which an error message may hold."""
    if "\0" in value:
        value = value.replace("\0", "\ufffd")
    return value.encode()


def _texts(values: Sequence[str]) -> bytes:
    return _text(text_array(values))


_WRITERS: Mapping[type, tuple[int, Callable[[Any], bytes | None]]] = {
    type(None): (0, lambda _: None),
    str: (0, _text),  # the server knows what kind of text it wants
    list: (0, _texts),
    bool: (16, _flag),
    int: (20, lambda value: b"%d" % value),
    float: (701, lambda value: repr(value).encode()),
}
"""By the type of a parameter: PostgreSQL's number for it, and how it is written."""


class Rows:
    """The rows of a statement, as dictionaries."""

    __slots__ = ("_left",)

    def __init__(self, rows: list[dict[str, Any]]) -> None:
        self._left = iter(rows)

    def fetchone(self) -> dict[str, Any] | None:
        """Return the next row, if there is one."""
        return next(self._left, None)

    def fetchall(self) -> list[dict[str, Any]]:
        """Return the rows that are left."""
        return list(self._left)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return self._left


class PostgresConnection:
    """The Connection of one session."""

    def __init__(self, session: psycopg.Connection[dict[str, Any]]) -> None:
        self.session = session
        self._libpq = session.pgconn
        self._libpq.nonblocking = 0
        self._prepared: OrderedDict[tuple[bytes, tuple[int, ...]], bytes | None] = OrderedDict()
        """The names of prepared statements; None for one that was executed once until now."""
        self._count = 0
        self._waiting: dict[str, tuple[Many, Mapping[str, str]]] = {}
        """What is to be written, by its table."""
        self.lanes: dict[tuple[Any, ...], int] = {}

    @property
    def in_transaction(self) -> bool:
        """Whether a transaction is open that can be rolled back."""
        status = self._libpq.transaction_status
        return status in {TransactionStatus.INTRANS, TransactionStatus.INERROR}

    def execute(self, statement: str, parameters: Parameters | None = None, /) -> Rows:
        """Execute a statement; one without parameters may be several, and returns the last rows."""
        if self._waiting:
            self.flush()
        text, names = translate(statement)
        if not names and b";" in text:
            return self._read(self._libpq.exec_(text))
        return self._run(text, [parameters[name] if parameters else None for name in names])

    def begin(self, calls: Iterable[tuple[str, Collection[str] | int | None]]) -> Rows:
        """Begin a transaction and execute prepared statements in it, in one round trip.

        Each has one argument, or none. Return the rows of the last.
        """
        texts = [b"BEGIN", *(self._call(name, told) for name, told in calls)]
        return self._read(self._libpq.exec_(b"; ".join(texts)))

    def _call(self, name: str, told: Collection[str] | int | None) -> bytes:
        text = b"EXECUTE " + name.encode()
        if told is None:
            return text
        if isinstance(told, int):
            return b"%b(%d)" % (text, told)
        return b"%b(%b)" % (text, Escaping(self._libpq).escape_literal(_texts(list(told))))

    def flush(self) -> None:
        """Write what waits."""
        waiting = list(self._waiting.values())
        self._waiting.clear()
        if waiting:
            text = as_one(tuple(statement.postgres for statement, _ in waiting))
            self._run(text, [value for _, told in waiting for value in told.values()])

    def roll_back(self, savepoint: str = "") -> None:
        """Undo what was done since the transaction, or a savepoint in it, began."""
        self._waiting.clear()
        self.lanes.clear()
        self.execute(f"ROLLBACK TO {savepoint}" if savepoint else "ROLLBACK")

    def _run(self, text: bytes, parameters: Sequence[Any]) -> Rows:
        kinds: list[int] = []
        values: list[Any] = []
        for value in parameters:
            kind, write = _WRITERS[type(value)]
            kinds.append(kind)
            values.append(write(value))
        return self._read(self._send(text, tuple(kinds), values))

    def _send(self, text: bytes, kinds: tuple[int, ...], values: list[Any]) -> PGresult:
        """What is executed a second time is prepared, and stays so while it is in use."""
        key = text, kinds
        if key not in self._prepared:
            self._prepared[key] = None
            if len(self._prepared) > PREPARED_STATEMENTS:
                self._forget(self._prepared.popitem(last=False)[1])
            return self._libpq.exec_params(text, values, kinds, None, Format.BINARY)
        self._prepared.move_to_end(key)
        name = self._prepared[key]
        if name is None:
            self._count += 1
            name = b"s%d" % self._count
            self._check(self._libpq.prepare(name, text, kinds))
            self._prepared[key] = name
        return self._libpq.exec_prepared(name, values, None, Format.BINARY)

    def _forget(self, name: bytes | None) -> None:
        if name is not None:
            self._check(self._libpq.exec_(b"DEALLOCATE " + name))

    def _read(self, result: PGresult) -> Rows:
        self._check(result)
        if not result.ntuples:
            return Rows([])
        names = [(result.fname(place) or b"").decode() for place in range(result.nfields)]
        reader = Transformer(self.session)
        reader.set_pgresult(result)
        found = reader.load_rows(0, result.ntuples, tuple)
        return Rows([dict(zip(names, row, strict=True)) for row in found])

    def _check(self, result: PGresult) -> None:
        if result.status in _WELL:
            return
        error = errors.error_from_result(result)
        if not error.sqlstate:  # it comes from libpq itself: nothing came from the server
            error = psycopg.OperationalError(*error.args)
        raise error

    def write_many(self, statement: Many, rows: Sequence[Values], /) -> None:
        """Execute a statement that returns nothing for many rows, in their order."""
        for parameters in statement.statements(rows):
            if statement.table in self._waiting:
                self.flush()
            self._waiting[statement.table] = statement, parameters

    def among(self, statement: Among, keys: Collection[Any], others: Parameters, /) -> Rows:
        """Execute a statement for many keys."""
        return self.execute(statement.postgres, statement.for_postgres({**others, "keys": keys}))

    def close(self) -> None:
        """End the session."""
        self.session.close()


def connect(url: str, name: str) -> PostgresConnection:
    """Open a session that others see as `name`. Raises psycopg.OperationalError."""
    session = psycopg.connect(
        with_liveness(url), autocommit=True, row_factory=dict_row, application_name=name
    )
    session.execute(_SESSION)
    return PostgresConnection(session)


def with_liveness(url: str) -> str:
    """Add what the URL leaves open."""
    told: Mapping[str, Any] = conninfo_to_dict(url)
    return make_conninfo(url, **{**_LIVENESS, **told})
