"""The outbox on disk: one SQLite file, written by one thread, fsynced at every commit."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import structlog

from ...models.job import StreamChunk
from ...models.lease import AttemptRef
from .changes import (
    Change,
    Forget,
    ForgetChunks,
    KeepChunks,
    KeepReport,
    LeftBehind,
    NameWorker,
    kind_of,
    read_chunk,
    read_report,
    write_chunk,
    write_report,
)
from .place import Place

logger = structlog.get_logger(__name__)

FILE_NAME = "outbox.db"
CHUNKS_SHARE = 0.5
"""The part of the room that chunks of unfinished attempts may take; results may take all."""
LARGEST_BODY_BYTES = 900_000_000
"""What SQLite takes as one value, with room to spare."""
_CORRUPT = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
_SCHEMA = """
PRAGMA journal_mode = WAL;
PRAGMA synchronous = FULL;
CREATE TABLE IF NOT EXISTS worker (worker_id TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS reports (
    number INTEGER PRIMARY KEY, job_id TEXT NOT NULL, attempt INTEGER NOT NULL,
    kind TEXT NOT NULL, body BLOB NOT NULL, UNIQUE (job_id, attempt)
);
CREATE TABLE IF NOT EXISTS chunks (
    job_id TEXT NOT NULL, attempt INTEGER NOT NULL, sequence INTEGER NOT NULL,
    body BLOB NOT NULL, PRIMARY KEY (job_id, attempt, sequence)
);
"""
_USED = """
SELECT (SELECT COALESCE(SUM(LENGTH(body)), 0) FROM reports)
    + (SELECT COALESCE(SUM(LENGTH(body)), 0) FROM chunks)
"""


@dataclass(frozen=True, slots=True)
class Written:
    """What a commit did: which of its changes found no room, and what is kept now."""

    refused: Sequence[int]
    used: int
    """Bytes."""
    reports: int


class OutboxFile:
    """Opens itself when first used, and again after a failure. For one thread.

    A file that SQLite cannot read is set aside under another name, and a new one begun.
    """

    def __init__(self, root: Path, name: str, limit_bytes: int) -> None:
        self._root = root
        self._name = name
        self._limit = limit_bytes
        self._place: Place | None = None
        self._connection: sqlite3.Connection | None = None
        self.used = 0
        """Bytes kept, as of the last commit."""
        self.set_asides = 0
        """How often a file was found unreadable, all that it held lost to this process."""

    # ------------------------------------------------------------ what it is asked

    def load(self) -> LeftBehind:
        """Return what is there. Raises OSError, sqlite3.Error."""
        try:
            return self._load(self._open())
        except (ValueError, sqlite3.DatabaseError) as error:
            self._set_aside_if_corrupt(error)
            return self._load(self._open())

    def apply(self, changes: Sequence[Change]) -> Written:
        """Carry out changes in their order and make them durable, all or none of them.

        A report or chunks for which there is no room are refused. Raises OSError, sqlite3.Error.
        """
        try:
            return self._apply(self._open(), changes)
        except sqlite3.DatabaseError as error:
            self._set_aside_if_corrupt(error)
            return self._apply(self._open(), changes)

    def close(self) -> None:
        """Close the file and free its folder. May be called twice."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()
        place, self._place = self._place, None
        if place is not None:
            place.release()

    # ------------------------------------------------------------ opening

    def _open(self) -> sqlite3.Connection:
        if self._place is None:
            self._place = Place.take(self._root, self._name)
        if self._connection is None:
            self._connection = _connect(self._place.folder / FILE_NAME)
            self.used = int(self._connection.execute(_USED).fetchone()[0])
        return self._connection

    def _set_aside_if_corrupt(self, error: Exception) -> None:
        code = getattr(error, "sqlite_errorcode", None)
        if isinstance(error, sqlite3.Error) and (code is None or code & 0xFF not in _CORRUPT):
            raise error
        assert self._place is not None
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        self.set_asides += 1
        kept_as = _set_aside(self._place.folder)
        logger.error("outbox_corrupt", error=str(error), set_aside_as=str(kept_as))

    # ------------------------------------------------------------ reading

    def _load(self, connection: sqlite3.Connection) -> LeftBehind:
        found = LeftBehind()
        for (worker_id,) in connection.execute("SELECT worker_id FROM worker"):
            found.worker_id = worker_id
        rows = connection.execute("SELECT job_id, attempt, kind, body FROM reports ORDER BY number")
        for job_id, attempt, kind, body in rows:
            found.reports[AttemptRef(job_id, attempt)] = read_report(kind, body)
        rows = connection.execute(
            "SELECT job_id, attempt, body FROM chunks ORDER BY job_id, attempt, sequence"
        )
        for job_id, attempt, body in rows:
            found.chunks.setdefault(AttemptRef(job_id, attempt), []).append(read_chunk(body))
        return found

    # ------------------------------------------------------------ writing

    def _apply(self, connection: sqlite3.Connection, changes: Sequence[Change]) -> Written:
        used = self.used
        try:
            with connection:
                connection.execute("BEGIN IMMEDIATE")
                refused = [
                    index
                    for index, change in enumerate(changes)
                    if not self._carry_out(connection, change)
                ]
        except BaseException:
            self.used = used
            raise
        (reports,) = connection.execute("SELECT COUNT(*) FROM reports").fetchone()
        return Written(refused, self.used, int(reports))

    def _carry_out(self, connection: sqlite3.Connection, change: Change) -> bool:
        match change:
            case KeepReport():
                return self._keep_report(connection, change)
            case KeepChunks(ref, chunks):
                return self._keep_chunks(connection, ref, chunks, CHUNKS_SHARE * self._limit)
            case ForgetChunks(ref, below):
                self._forget_chunks(connection, ref, below=below)
            case Forget(ref):
                self._forget_report(connection, ref)
                self._forget_chunks(connection, ref)
            case NameWorker(worker_id):
                connection.execute("DELETE FROM worker")
                if worker_id:
                    connection.execute("INSERT INTO worker VALUES (?)", (worker_id,))
        return True

    def _keep_report(self, connection: sqlite3.Connection, change: KeepReport) -> bool:
        body = write_report(change.report)
        self._forget_report(connection, change.ref)
        self._forget_chunks(connection, change.ref)
        if len(body) > LARGEST_BODY_BYTES or self.used + len(body) > self._limit:
            return False
        if not self._keep_chunks(connection, change.ref, change.chunks, self._limit - len(body)):
            return False
        connection.execute(
            "INSERT INTO reports (job_id, attempt, kind, body) VALUES (?, ?, ?, ?)",
            (*change.ref, kind_of(change.report), body),
        )
        self.used += len(body)
        return True

    def _keep_chunks(
        self,
        connection: sqlite3.Connection,
        ref: AttemptRef,
        chunks: Iterable[StreamChunk],
        limit: float,
    ) -> bool:
        """Write all of the chunks or, should there be no room below `limit`, none."""
        rows = [(*ref, chunk.sequence, write_chunk(chunk)) for chunk in chunks]
        if not rows:
            return True
        size = sum(len(row[3]) for row in rows)
        self._forget_chunks(connection, ref, first=rows[0][2])
        if self.used + size > limit:
            return False
        connection.executemany("INSERT INTO chunks VALUES (?, ?, ?, ?)", rows)
        self.used += size
        return True

    def _forget_report(self, connection: sqlite3.Connection, ref: AttemptRef) -> None:
        rows = connection.execute(
            "DELETE FROM reports WHERE job_id = ? AND attempt = ? RETURNING LENGTH(body)", ref
        )
        self.used -= sum(size for (size,) in rows.fetchall())

    def _forget_chunks(
        self,
        connection: sqlite3.Connection,
        ref: AttemptRef,
        *,
        first: int = 0,
        below: int = 2**62,
    ) -> None:
        rows = connection.execute(
            "DELETE FROM chunks WHERE job_id = ? AND attempt = ? AND sequence >= ?"
            " AND sequence < ? RETURNING LENGTH(body)",
            (*ref, first, below),
        )
        self.used -= sum(size for (size,) in rows.fetchall())


def _connect(path: Path) -> sqlite3.Connection:
    # autocommit as seen from Python: _apply() says where a transaction begins
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    try:
        connection.executescript(_SCHEMA)
        ((verdict,),) = connection.execute("PRAGMA quick_check(1)").fetchall()
        if verdict != "ok":
            damaged = sqlite3.DatabaseError(f"the file is damaged: {verdict}")
            damaged.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
            raise damaged
    except BaseException:
        connection.close()
        raise
    return connection


def _set_aside(folder: Path) -> Path:
    """Rename the file and what SQLite keeps beside it; return the new name."""
    stamp = time.time_ns()
    for suffix in ("-wal", "-shm", ""):
        path = folder / f"{FILE_NAME}{suffix}"
        if path.exists():
            path.rename(folder / f"{FILE_NAME}.corrupt-{stamp}{suffix}")
    return folder / f"{FILE_NAME}.corrupt-{stamp}"
