"""The registry's database in PostgreSQL, shared by any number of GENOME processes."""

from __future__ import annotations

from typing import Any

import psycopg
from alembic.util import CommandError
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from sqlalchemy import Connection, Engine, create_engine, event

from .database import THREADS, WRITES, Database
from .errors import GenomeUnavailableError

OLDEST_VERSION = 14
WRITE_LOCK = 0x4D4E4547
"""Held by the one transaction that writes: registrations are rare, and their order is told."""

_LIVENESS = {
    "connect_timeout": "2",
    "keepalives_idle": "5",
    "keepalives_interval": "2",
    "keepalives_count": "3",
    "tcp_user_timeout": "10000",
    "target_session_attrs": "read-write",
    "application_name": "genome",
}
_SESSION = """
SET synchronous_commit = on; SET idle_in_transaction_session_timeout = '10s';
SET lock_timeout = '10s'; SET statement_timeout = '15s'
"""


class PostgresDatabase(Database):
    """The database at a libpq URL; tables are made in it when it is opened.

    A connection that was lost is replaced unseen; while there is no server every call raises
    GenomeUnavailableError. Raises that at once for a URL that cannot be read.
    """

    version_table = "genome_version"  # another service may keep one in the same database

    def __init__(self, url: str) -> None:
        self._told = _read_url(url)
        super().__init__(_make_engine(make_conninfo(url, **{**_LIVENESS, **self._told})))

    def _prepare(self) -> None:
        with self._engine.connect() as connection:
            version = int((connection.dialect.server_version_info or (OLDEST_VERSION,))[0])
        if version < OLDEST_VERSION:
            raise GenomeUnavailableError(
                f"{self._place} is PostgreSQL {version}; GENOME needs {OLDEST_VERSION} or newer."
            )
        super()._prepare()

    def _options(self, *, writes: bool) -> dict[str, Any]:
        snapshot = {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}
        return super()._options(writes=writes) | ({} if writes else snapshot)

    def _touch(self, connection: Connection) -> None:
        connection.exec_driver_sql("SELECT pg_current_xact_id()")  # a standby has none to give

    def _explain(self, error: BaseException) -> str:
        told = str(error)
        if any(words in told for words in ("authentication failed", "no password supplied")):
            user = self._told.get("user", "of this system")
            return (
                f"{self._place} refuses the user {user}: "
                "check the user and the password in GENOME_DATABASE_URL."
            )
        lines = self._without_password(told).strip().splitlines()
        reason = lines[0].strip().rstrip(".") if lines else type(error).__name__
        return f"GENOME cannot use the {self._place[4:]}: {reason}."

    def _foreign(self, error: CommandError) -> str:
        return f"{self._place} was written by another version of GENOME ({error})."

    @property
    def _place(self) -> str:
        name = self._told.get("dbname", self._told.get("user", ""))
        return f"The database {name} on {self._told.get('host', 'this machine')}"

    def _without_password(self, said: str) -> str:
        password = str(self._told.get("password", ""))
        return said.replace(password, "***") if password else said


def _read_url(url: str) -> dict[str, Any]:
    """What a URL says. libpq's own words about a wrong one may hold a part of its password."""
    try:
        told = conninfo_to_dict(url)
        ports = str(told.get("port", "")).split(",")
        if all(port == "" or (port.isascii() and port.isdigit()) for port in ports):
            return told
    except psycopg.Error:
        pass
    raise GenomeUnavailableError(
        "GENOME_DATABASE_URL cannot be read; write it like postgresql://user:password@host/name, "
        "with the special characters of the password percent-encoded."
    )


def _make_engine(target: str) -> Engine:
    def connect() -> psycopg.Connection[Any]:
        session = psycopg.connect(target)
        session.autocommit = True
        session.execute(_SESSION)
        session.autocommit = False
        return session

    engine = create_engine(
        "postgresql+psycopg://",
        creator=connect,
        pool_size=THREADS,
        max_overflow=0,
        pool_pre_ping=True,
    )
    event.listen(engine, "begin", _begin)
    return engine


def _begin(connection: Connection) -> None:
    if connection.get_execution_options().get(WRITES, False):
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({WRITE_LOCK})")
