"""What a store operation is given: statements, the time, tallies, and what to tell afterwards."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from ..numbers import Measurements
from .engine import Connection, Parameters, Row
from .many import INT, TEXT, Among, Many, Values

__all__ = ["Parameters", "Row", "Transaction", "flush_finished", "flush_tallies"]

_FLUSH_TALLY = Many(
    """
INSERT INTO tallies (scope, name, value) VALUES (:scope, :name, :delta)
ON CONFLICT (scope, name) DO UPDATE SET value = tallies.value + excluded.value
""",
    scope=TEXT,
    name=TEXT,
    delta=INT,
)
_FINISH_NUMBERS = """
INSERT INTO tallies (scope, name, value) VALUES ('sequence', 'finish', :count)
ON CONFLICT (scope, name) DO UPDATE SET value = tallies.value + excluded.value
RETURNING value
"""
_NUMBER = Many(
    """
INSERT INTO finished (job_seq, group_name, finish_seq) VALUES (:seq, :group_name, :number)
""",
    seq=INT,
    group_name=TEXT,
    number=INT,
)


class Transaction:
    """One operation inside a commit that it may share with others.

    `shared` says that other processes may write to the database meanwhile; `numbers` are those of
    new jobs that were taken as the commit began, the last one first.
    """

    __slots__ = (
        "_connection",
        "finished",
        "measured",
        "now",
        "numbers",
        "shared",
        "tally",
        "topics",
    )

    def __init__(
        self,
        connection: Connection,
        now: float,
        *,
        shared: bool = False,
        numbers: list[int] | None = None,
    ) -> None:
        self._connection = connection
        self.numbers = numbers or []
        self.now = now
        self.shared = shared
        self.tally: Counter[tuple[str, str]] = Counter()
        self.finished: dict[int, str | None] = {}
        """Jobs of groups that ended, and their groups; None for one that is pending again."""
        self.topics: set[str] = set()
        self.measured = Measurements()

    def run(self, statement: str, parameters: Parameters) -> None:
        """Execute a statement that returns nothing."""
        self._connection.execute(statement, parameters)

    def one(self, statement: str, parameters: Parameters) -> Row | None:
        """Execute a statement; return its first row."""
        rows = self._connection.execute(statement, parameters).fetchall()
        return rows[0] if rows else None

    def all(self, statement: str, parameters: Parameters) -> list[Row]:
        """Execute a statement; return its rows."""
        return self._connection.execute(statement, parameters).fetchall()

    def among(self, statement: Among, keys: Collection[Any], **others: Any) -> list[Row]:
        """Execute a statement that returns rows, for many keys at once."""
        return self._connection.among(statement, keys, others).fetchall() if keys else []

    def write(self, statement: Many, rows: Sequence[Values]) -> None:
        """Execute a statement that returns nothing for many rows, in their order."""
        if rows:
            self._connection.write_many(statement, rows)

    @property
    def lanes(self) -> dict[tuple[Any, ...], int]:
        """Lanes that are known to be there, by what they demand."""
        return self._connection.lanes

    def count(self, scope: str, name: str, delta: int) -> None:
        """Change a tally; those of a whole commit are written together."""
        self.tally[scope, name] += delta


def flush_tallies(tx: Transaction, tally: Counter[tuple[str, str]]) -> None:
    """Write what the operations of one commit have counted, in an order that all keep to."""
    rows = [(scope, name, delta) for (scope, name), delta in sorted(tally.items()) if delta]
    tx.write(_FLUSH_TALLY, rows)


def flush_finished(tx: Transaction, finished: Mapping[int, str | None]) -> None:
    """Number the jobs that one commit finished: by `seq` their groups, None for those that did not.

    The numbers are taken last, and whoever takes some holds them until its commit: so they are
    seen in their order, and a reader that pages by them misses none.
    """
    ended = [(seq, group) for seq, group in finished.items() if group is not None]
    if not ended:
        return
    last = tx.one(_FINISH_NUMBERS, {"count": len(ended)})
    assert last is not None
    first = int(last["value"]) - len(ended) + 1
    tx.write(_NUMBER, [(*one, first + place) for place, one in enumerate(ended)])
