"""The one thread that writes: everything that waits is committed together (group commit).

Each operation runs in a savepoint, so that one that fails does not spoil its neighbours; one
fsync covers all; nobody is answered before it. A disk that is full fails the whole commit, every
operation of it with StorageUnavailableError, and the next commit starts afresh.
"""

from __future__ import annotations

import asyncio
import queue
import sqlite3
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from ..clock import Clock
from ..errors import StorageUnavailableError
from ..numbers import Measurements
from .database import is_storage_failure, storage_error
from .transaction import Transaction, flush_tallies

T = TypeVar("T")
Operation = Callable[[Transaction], T]
OnCommit = Callable[[set[str], Measurements], None]

MAX_OPERATIONS_PER_COMMIT = 512
MAX_WAITING = 20_000


@dataclass(slots=True)
class _Request(Generic[T]):
    operation: Operation[T]
    future: asyncio.Future[T]
    undo: Callable[[T], Operation[Any] | None] | None
    result: T | None = None
    error: BaseException | None = None


class Writer:
    """Runs operations on one connection, in the order they came, from one event loop.

    `on_commit` is called in the loop, after a commit and before its operations are answered, with
    the topics to wake and what was measured.
    """

    def __init__(
        self, open_connection: Callable[[], sqlite3.Connection], clock: Clock, on_commit: OnCommit
    ) -> None:
        self._open_connection = open_connection
        self._clock = clock
        self._on_commit = on_commit
        self._queue: queue.SimpleQueue[_Request[Any] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closed = False

    async def start(self) -> None:
        """Open the connection and start the thread. Raises what opening raises."""
        self._loop = asyncio.get_running_loop()
        opened: asyncio.Future[None] = self._loop.create_future()
        self._thread = threading.Thread(
            target=self._main, args=(opened,), name="cortex-writer", daemon=True
        )
        self._thread.start()
        await opened

    async def close(self) -> None:
        """Commit what was asked for until now, and end the thread. Idempotent."""
        self._closed = True
        if self._thread is not None:
            self._queue.put(None)
            await asyncio.to_thread(self._thread.join)
            self._thread = None

    async def run(
        self,
        operation: Operation[T],
        *,
        undo: Callable[[T], Operation[Any] | None] | None = None,
    ) -> T:
        """Return the operation's result once it is durable.

        If the caller is cancelled before the operation began, it does not happen; if it happened
        by then, `undo` gives the operation that takes it back, and that one is run.
        """
        if self._closed or self._loop is None:
            raise StorageUnavailableError("CORTEX is shutting down.")
        if self._queue.qsize() >= MAX_WAITING:
            raise StorageUnavailableError("CORTEX is overloaded; try again in a moment.")
        future: asyncio.Future[T] = self._loop.create_future()
        request = _Request(operation, future, undo)
        self._queue.put(request)
        try:
            return await request.future
        except asyncio.CancelledError:
            if request.future.done() and not request.future.cancelled():
                self._undo(request)
            raise

    # ------------------------------------------------ in the writer's thread

    def _main(self, opened: asyncio.Future[None]) -> None:
        assert self._loop is not None
        try:
            connection = self._open_connection()
        except BaseException as error:  # noqa: BLE001  it is handed to whoever started us
            self._loop.call_soon_threadsafe(opened.set_exception, error)
            return
        self._loop.call_soon_threadsafe(opened.set_result, None)
        try:
            while batch := self._next_batch():
                self._commit_batch(connection, batch)
        finally:
            connection.close()

    def _next_batch(self) -> list[_Request[Any]]:
        first = self._queue.get()
        if first is None:
            return []
        batch = [first]
        while len(batch) < MAX_OPERATIONS_PER_COMMIT:
            try:
                request = self._queue.get_nowait()
            except queue.Empty:
                break
            if request is None:
                self._queue.put(None)
                break
            batch.append(request)
        return batch

    def _commit_batch(self, connection: sqlite3.Connection, batch: list[_Request[Any]]) -> None:
        batch = [request for request in batch if not request.future.cancelled()]
        topics: set[str] = set()
        measured = Measurements()
        try:
            connection.execute("BEGIN IMMEDIATE")
            tally: Counter[tuple[str, str]] = Counter()
            for request in batch:
                done = self._run_in_savepoint(connection, request)
                if done is not None:
                    tally.update(done.tally)
                    topics |= done.topics
                    measured.add(done.measured)
            flush_tallies(connection, tally)
            connection.execute("COMMIT")
        except Exception as error:  # noqa: BLE001  whoever asked is told; the thread must live
            _roll_back(connection)
            failure = storage_error(error) if isinstance(error, sqlite3.Error) else error
            for request in batch:
                request.error = failure
            topics, measured = set(), Measurements()
        assert self._loop is not None
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._deliver, batch, topics, measured)

    def _run_in_savepoint(
        self, connection: sqlite3.Connection, request: _Request[Any]
    ) -> Transaction | None:
        transaction = Transaction(connection, self._clock())
        connection.execute("SAVEPOINT operation")
        try:
            request.result = request.operation(transaction)
        except Exception as error:
            storage_failed = isinstance(error, sqlite3.Error) and is_storage_failure(error)
            if storage_failed or not connection.in_transaction:
                raise
            connection.execute("ROLLBACK TO operation")
            connection.execute("RELEASE operation")
            request.error = error
            return None
        connection.execute("RELEASE operation")
        return transaction

    # ------------------------------------------------ in the loop

    def _deliver(
        self, batch: list[_Request[Any]], topics: set[str], measured: Measurements
    ) -> None:
        try:
            self._on_commit(topics, measured)
        finally:
            for request in batch:
                self._answer(request)

    def _answer(self, request: _Request[Any]) -> None:
        if request.future.cancelled():
            self._undo(request)
        elif request.error is not None:
            request.future.set_exception(request.error)
        else:
            request.future.set_result(request.result)

    def _undo(self, request: _Request[Any]) -> None:
        if request.error is not None or request.undo is None or self._loop is None:
            return
        operation = request.undo(request.result)
        if operation is not None and not self._closed:
            future = self._loop.create_future()
            future.add_done_callback(_forget)
            self._queue.put(_Request(operation, future, None))


def _forget(future: asyncio.Future[Any]) -> None:
    if not future.cancelled():
        future.exception()


def _roll_back(connection: sqlite3.Connection) -> None:
    if connection.in_transaction:
        try:
            connection.execute("ROLLBACK")
        except sqlite3.Error:
            # SQLite has rolled back by itself when a failure was bad enough.
            return
