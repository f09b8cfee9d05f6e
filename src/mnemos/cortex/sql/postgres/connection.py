"""A connection to PostgreSQL that takes the store's statements as they are written."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from functools import lru_cache
from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.pq import TransactionStatus
from psycopg.rows import dict_row
from psycopg.types.numeric import Int8Dumper
from psycopg.types.string import StrDumperUnknown

from ..engine import Parameters
from ..many import Among, Many, Values

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

_SESSION = """
SET synchronous_commit = on; SET idle_in_transaction_session_timeout = '10s';
SET lock_timeout = '5s'; SET statement_timeout = '30s'
"""
_NAME = re.compile(r"(?<![:\w]):([a-z]\w*)")
_ONLY_POSTGRES = re.compile(r"/\*\+(.*?)\*/", re.DOTALL)


@lru_cache(maxsize=1024)
def translate(statement: str) -> bytes:
    """Write a statement of the store as psycopg takes it."""
    text = _ONLY_POSTGRES.sub(r"\1", statement)
    return _NAME.sub(r"%(\1)s", text).encode()


class _TextDumper(StrDumperUnknown):
    """PostgreSQL cannot keep the character NUL, which an error message may hold."""

    def dump(self, obj: str) -> Any:
        return super().dump(obj.replace("\0", "\ufffd") if "\0" in obj else obj)


class PostgresConnection:
    """The Connection of one session."""

    def __init__(self, session: psycopg.Connection[dict[str, Any]]) -> None:
        self.session = session
        self._cursor = session.cursor()  # one for all: making them costs more than statements do

    @property
    def in_transaction(self) -> bool:
        """Whether a transaction is open that can be rolled back."""
        status = self.session.info.transaction_status
        return status in {TransactionStatus.INTRANS, TransactionStatus.INERROR}

    def execute(
        self, statement: str, parameters: Parameters | None = None, /
    ) -> psycopg.Cursor[dict[str, Any]]:
        """Execute a statement; one without parameters may be several."""
        if not parameters:
            return self._cursor.execute(translate(statement), prepare=";" not in statement)
        return self._cursor.execute(translate(statement), parameters)

    def write_many(self, statement: Many, rows: Sequence[Values], /) -> None:
        """Execute a statement that returns nothing for many rows, in their order."""
        for parameters in statement.statements(rows):
            self._cursor.execute(translate(statement.postgres), parameters)

    def among(
        self, statement: Among, keys: Collection[Any], others: Parameters, /
    ) -> psycopg.Cursor[dict[str, Any]]:
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
    session.adapters.register_dumper(str, _TextDumper)
    session.adapters.register_dumper(int, Int8Dumper)  # one prepared statement for all sizes
    session.prepared_max = PREPARED_STATEMENTS
    session.execute(_SESSION)
    return PostgresConnection(session)


def with_liveness(url: str) -> str:
    """Add what the URL leaves open."""
    told: Mapping[str, Any] = conninfo_to_dict(url)
    return make_conninfo(url, **{**_LIVENESS, **told})
