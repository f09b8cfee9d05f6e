"""Statements for many rows at once, written once, as if for one row.

SQLite is given the rows one after the other, with a prepared statement, which costs it nothing.
PostgreSQL is given all of them in one round trip, a column an array: literals of text, since that
is the fastest way to write them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

Values = Sequence[Any]

INT = "bigint"
FLOAT = "float8"
BOOL = "boolean"
TEXT = "text"

MAX_ROWS = 2_000
MAX_STATEMENT_CHARACTERS = 8_000_000

_NAME = re.compile(r"(?<![:\w]):([a-z]\w*)")
_TABLE = re.compile(r"\s*(?:INSERT INTO|UPDATE|DELETE FROM) (\w+)")
_VALUES = re.compile(r"VALUES \(([^)]*)\)")


class Many:
    """An INSERT … VALUES (…), an UPDATE … WHERE … or a DELETE … WHERE … for many rows.

    `types` names the columns of the rows, in their order, as the statement's `:names`. A column of
    the table that is named like one of them must be written with its table.
    """

    __slots__ = ("_names", "_texts", "_writers", "postgres", "sqlite", "table")

    def __init__(self, statement: str, **types: str) -> None:
        found = _TABLE.match(statement)
        assert found is not None
        self.table = found[1]
        self._names = list(types)
        self._writers = [_WRITERS[kind] for kind in types.values()]
        self._texts = [place for place, kind in enumerate(types.values()) if kind == TEXT]
        places = {name: f"?{place}" for place, name in enumerate(types, start=1)}
        self.sqlite = _NAME.sub(lambda found: places[found[1]], statement)
        self.postgres = _from_arrays(statement, types)

    def statements(self, rows: Sequence[Values]) -> Iterator[Mapping[str, str]]:
        """The parameters for PostgreSQL, for as many statements as it takes."""
        for some in _portions(rows, self._texts):
            columns = zip(*some, strict=True)
            yield {
                name: write(column)
                for name, write, column in zip(self._names, self._writers, columns, strict=True)
            }


class Among:
    """A statement on the rows whose key is one of many: its text says `= ANY(:keys)`.

    `others` names further lists that it is given, as it says `= ANY(:name)` of them.
    """

    __slots__ = ("_writers", "postgres", "sqlite")

    def __init__(self, statement: str, kind: str, **others: str) -> None:
        kinds = {"keys": kind, **others}
        self._writers = {name: _WRITERS[kind] for name, kind in kinds.items()}
        self.sqlite = self.postgres = statement
        for name, kind in kinds.items():
            any_of = f"= ANY(:{name})"
            assert any_of in statement
            listed = f"IN (SELECT value FROM json_each(:{name}))"  # noqa: S608  constants only
            self.sqlite = self.sqlite.replace(any_of, listed)
            self.postgres = self.postgres.replace(any_of, f"= ANY(CAST(:{name} AS {kind}[]))")

    def for_postgres(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """The parameters as PostgreSQL takes them."""
        arrays = {name: write(list(given[name])) for name, write in self._writers.items()}
        return {**given, **arrays}

    def for_sqlite(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """The parameters as SQLite takes them."""
        return {**given, **{name: json.dumps(list(given[name])) for name in self._writers}}


def _from_arrays(statement: str, types: Mapping[str, str]) -> str:
    arrays = ", ".join(f"CAST(:{name} AS {kind}[])" for name, kind in types.items())
    source = f"FROM unnest({arrays}) AS told ({', '.join(types)})"
    told = _NAME.sub(r"told.\1", statement)
    inserted, count = _VALUES.subn(rf"SELECT \1 {source}", told)
    if count:
        return inserted
    head, where, tail = told.rpartition("WHERE")
    assert where
    if head.lstrip().startswith("DELETE"):
        source = source.replace("FROM", "USING", 1)
    return f"{head}{source} WHERE{tail}"


def _portions(rows: Sequence[Values], texts: Sequence[int]) -> Iterator[Sequence[Values]]:
    """Cut rows where a statement would grow beyond what a server takes gladly."""
    first, size = 0, 0
    for place, row in enumerate(rows):
        more = sum([len(row[text] or "") for text in texts])
        size += more
        if place > first and (size > MAX_STATEMENT_CHARACTERS or place - first == MAX_ROWS):
            yield rows[first:place]
            first, size = place, more
    yield rows[first:]


def _numbers(values: Iterable[Any]) -> str:
    return f"{{{','.join(['NULL' if value is None else repr(value) for value in values])}}}"


def _flags(values: Iterable[Any]) -> str:
    told = ["NULL" if value is None else "t" if value else "f" for value in values]
    return f"{{{','.join(told)}}}"


def text_array(values: Iterable[Any]) -> str:
    """Texts as PostgreSQL's literal of an array."""
    return f"{{{','.join([_string(value) for value in values])}}}"


def _string(value: str | None) -> str:
    if value is None:
        return "NULL"
    if "\\" in value:
        value = value.replace("\\", "\\\\")
    if '"' in value:
        value = value.replace('"', '\\"')
    return f'"{value}"'


_WRITERS: Mapping[str, Callable[[Iterable[Any]], str]] = {
    INT: _numbers,
    FLOAT: _numbers,
    BOOL: _flags,
    TEXT: text_array,
}
