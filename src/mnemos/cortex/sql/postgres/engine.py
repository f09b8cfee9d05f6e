"""PostgreSQL as the store's Engine: locks, commits, lost connections, a clock for all replicas.

Every replica's writer holds LIVE_LOCK as long as it is connected. Who can have it alone finds that
no CORTEX could reach the database until now: workers could renew nothing, and are given one whole
lease again. One replica that starts beside others expires what is due.

Each transaction asks in the same way whether its replica is alone: then nobody has to be told of
what it commits, and none can join before it is committed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from contextlib import AbstractContextManager, nullcontext
from typing import Any, cast

import psycopg
from psycopg import errors

from ...clock import Clock
from ...errors import StorageUnavailableError
from ..engine import Begun, Connection, Touched
from .connection import PostgresConnection, connect
from .notices import payloads

LIVE_LOCK = 0x4D4E454E
GHOST_SECONDS = 5.0
MOST_NUMBERS = 64
"""Where more jobs are new, a round trip for their numbers costs each next to nothing."""

# Prepared in each writing session, so that a commit begins in one round trip.
_PREPARE = f"""
PREPARE begun AS SELECT extract(epoch FROM clock_timestamp())::float8 AS now,
    pg_current_xact_id()::text AS id, pg_try_advisory_xact_lock({LIVE_LOCK}) AS alone;
PREPARE begun_with (bigint) AS SELECT extract(epoch FROM clock_timestamp())::float8 AS now,
    pg_current_xact_id()::text AS id, pg_try_advisory_xact_lock({LIVE_LOCK}) AS alone,
    ARRAY(
        SELECT nextval(pg_get_serial_sequence('jobs', 'seq')) FROM generate_series(1, $1)
    ) AS numbers;
PREPARE lock_workers (text[]) AS
    SELECT 1 FROM workers WHERE worker_id = ANY($1) ORDER BY worker_id FOR NO KEY UPDATE;
PREPARE lock_jobs (text[]) AS
    SELECT 1 FROM jobs WHERE job_id = ANY($1) ORDER BY seq FOR NO KEY UPDATE
"""  # noqa: S608  constants only
_NOW = "SELECT extract(epoch FROM clock_timestamp())::float8 AS now"
_NOTIFY = "SELECT pg_notify(:channel, payload) FROM unnest(CAST(:payloads AS text[])) AS payload"
_STATUS = "SELECT pg_xact_status(CAST(:id AS xid8)) AS status"
_END_GHOSTS = """
SELECT COUNT(pg_terminate_backend(pid)) AS ghosts FROM pg_stat_activity
WHERE application_name = :name AND datname = current_database() AND pid != pg_backend_pid()
"""
_ALONE = "SELECT pg_try_advisory_lock(:key) AS alone"
_LIVE = "SELECT pg_advisory_lock_shared(:key)"
_NO_LONGER_ALONE = "SELECT pg_advisory_unlock(:key)"

# What writes finds its rows by keys. A plan that was made while a table was small, and is kept,
# must not read it whole once it is large.
_BY_KEYS = """
SET enable_seqscan = off; SET enable_bitmapscan = off; SET enable_sort = off;
SET enable_hashjoin = off; SET enable_mergejoin = off; SET jit = off
"""

_IN_THE_WAY = (errors.DeadlockDetected, errors.SerializationFailure, errors.LockNotAvailable)
_LOST = (
    errors.ReadOnlySqlTransaction,
    errors.AdminShutdown,
    errors.CrashShutdown,
    errors.CannotConnectNow,
    errors.DatabaseDropped,
    errors.IdleInTransactionSessionTimeout,
    errors.InFailedSqlTransaction,
    errors.TooManyConnections,
)
_SPOILING = (
    errors.InsufficientResources,
    errors.SystemError,
    errors.QueryCanceled,
    errors.InsufficientPrivilege,
)


class PostgresEngine:
    """The Engine of one replica, called `replica`.

    `on_alone` is run in the writer's thread, on its connection, when no CORTEX could reach the
    database until now; `on_connected` whenever it can write again, and may have missed what others
    had to say meanwhile. With a `clock`, as tests have, the database's own is not asked.
    """

    shared = True

    def __init__(
        self,
        url: str,
        replica: str,
        on_alone: Callable[[Connection, float], None],
        clock: Clock | None = None,
        on_connected: Callable[[], None] = lambda: None,
    ) -> None:
        self._url = url
        self._replica = replica
        self._on_alone = on_alone
        self._clock = clock
        self._on_connected = on_connected
        self._alone = False

    def connect_writer(self) -> PostgresConnection:
        """Open the connection that writes, once nothing of an earlier one is left."""
        name = f"cortex writer {self._replica}"
        connection = connect(self._url, name)
        try:
            _end_ghosts(connection, name)
            connection.execute(_BY_KEYS)
            connection.execute(_PREPARE)
            self._join(connection)
        except BaseException:
            connection.close()
            raise
        self._on_connected()
        return connection

    def connect_reader(self) -> PostgresConnection:
        """Open a connection that reads."""
        return connect(self._url, f"cortex reader {self._replica}")

    def _join(self, connection: PostgresConnection) -> None:
        """Be seen as alive; when nobody else is, do first what that calls for."""
        key = {"key": LIVE_LOCK}
        if not _only(connection.execute(_ALONE, key))["alone"]:
            connection.execute(_LIVE, key)
            return
        connection.execute("BEGIN")
        self._on_alone(connection, self.now(connection))
        connection.execute("COMMIT")
        connection.execute(_LIVE, key)
        connection.execute(_NO_LONGER_ALONE, key)

    def begin(self, connection: Connection, touched: Touched) -> Begun:
        """Begin to write, and lock the workers, then the jobs, in their order."""
        new_jobs = touched.new_jobs if touched.new_jobs <= MOST_NUMBERS else 0
        steps: list[tuple[str, Any]] = [("lock_workers", touched.workers)]
        steps += [("lock_jobs", touched.jobs), ("begun_with", new_jobs)]
        calls = [(name, told) for name, told in steps if told]
        if not new_jobs:
            calls.append(("begun", None))
        assert isinstance(connection, PostgresConnection)
        begun = _only(connection.begin(calls))
        self._alone = begun["alone"]
        numbers = begun["numbers"] if new_jobs else ()
        if self._clock is not None:
            return Begun(self._clock, begun["id"], numbers)
        now = float(begun["now"])
        return Begun(lambda: now, begun["id"], numbers)

    def hurry(self, connection: Connection) -> AbstractContextManager[object]:
        """Do without savepoints, which cost two round trips each."""
        return nullcontext()

    def commit(self, connection: Connection, topics: Collection[str]) -> None:
        """Make the transaction durable; with it, other replicas hear of `topics`."""
        if topics and not self._alone:
            channel, texts = payloads(self._replica, topics)
            connection.execute(_NOTIFY, {"channel": channel, "payloads": texts})
        connection.execute("COMMIT")

    def was_committed(self, connection: Connection, receipt: str) -> bool:
        """Ask the database about a transaction whose session is over."""
        try:
            told = _only(connection.execute(_STATUS, {"id": receipt}))
        except errors.InvalidParameterValue:
            return False  # a standby took over that had not heard of it
        return bool(told["status"] == "committed")

    def begin_reading(self, connection: Connection) -> None:
        """Begin to read from one snapshot."""
        connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")

    def now(self, connection: Connection) -> float:
        """The database's clock, the same for all replicas."""
        if self._clock is not None:
            return self._clock()
        return float(_only(connection.execute(_NOW))["now"])

    def spoils_all(self, error: Exception) -> bool:
        """Whether the server, and not the statement, is at fault."""
        return self.may_pass(error) or isinstance(error, _SPOILING)

    def may_pass(self, error: Exception) -> bool:
        """Whether the connection was lost, or another transaction stood in the way."""
        return isinstance(error, _IN_THE_WAY) or self.is_lost(error)

    def is_lost(self, error: Exception) -> bool:
        """Whether the connection was lost, or leads to a server that does not write now."""
        if isinstance(error, psycopg.OperationalError) and error.sqlstate is None:
            return True
        return isinstance(error, _LOST) or _class_of(error) == "08"

    def explain(self, error: Exception) -> StorageUnavailableError | None:
        """Say what the server said, where the server is at fault."""
        if not isinstance(error, psycopg.Error) or not self.spoils_all(error):
            return None
        lines = str(error).strip().splitlines() or [type(error).__name__]
        return StorageUnavailableError(f"CORTEX cannot use its database: {lines[0].rstrip('.')}.")


def _class_of(error: Exception) -> str:
    """The first two characters of an SQLSTATE; empty for an error without one."""
    return (getattr(error, "sqlstate", None) or "")[:2]


def _only(cursor: Any) -> dict[str, Any]:
    row = cursor.fetchone()
    assert row is not None
    return cast(dict[str, Any], row)


def _end_ghosts(connection: PostgresConnection, name: str) -> None:
    """End sessions of this replica that it has lost: they may hold locks, or still commit."""
    deadline = time.monotonic() + GHOST_SECONDS
    while _only(connection.execute(_END_GHOSTS, {"name": name}))["ghosts"]:
        if time.monotonic() > deadline:
            raise psycopg.OperationalError("an earlier session of this CORTEX does not end")
        time.sleep(0.02)
