"""What a store operation is given: statements, the time, tallies, and what to tell afterwards."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Mapping
from typing import Any

from ..numbers import Measurements

Row = sqlite3.Row
Parameters = Mapping[str, Any]

_FLUSH_TALLY = """
INSERT INTO tallies (scope, name, value) VALUES (:scope, :name, :delta)
ON CONFLICT (scope, name) DO UPDATE SET value = tallies.value + excluded.value
"""


class Transaction:
    """One operation inside a commit that it may share with others."""

    __slots__ = ("_connection", "measured", "now", "tally", "topics")

    def __init__(self, connection: sqlite3.Connection, now: float) -> None:
        self._connection = connection
        self.now = now
        self.tally: Counter[tuple[str, str]] = Counter()
        self.topics: set[str] = set()
        self.measured = Measurements()

    def run(self, statement: str, parameters: Parameters) -> int:
        """Execute a statement; return how many rows it changed."""
        return self._connection.execute(statement, parameters).rowcount

    def one(self, statement: str, parameters: Parameters) -> Row | None:
        """Execute a statement; return its first row."""
        rows = self._connection.execute(statement, parameters).fetchall()
        return rows[0] if rows else None

    def all(self, statement: str, parameters: Parameters) -> list[Row]:
        """Execute a statement; return its rows."""
        return self._connection.execute(statement, parameters).fetchall()

    def count(self, scope: str, name: str, delta: int) -> None:
        """Change a tally; those of a whole commit are written together."""
        self.tally[scope, name] += delta


def flush_tallies(connection: sqlite3.Connection, tally: Counter[tuple[str, str]]) -> None:
    """Write what the operations of one commit have counted."""
    rows = [
        {"scope": scope, "name": name, "delta": delta}
        for (scope, name), delta in tally.items()
        if delta
    ]
    if rows:
        connection.executemany(_FLUSH_TALLY, rows)
