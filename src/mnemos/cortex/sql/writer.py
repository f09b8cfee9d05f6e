"""The one thread that writes: everything that waits is committed together (group commit).

Operations of one kind are carried out together, in a few statements. Each such group runs in a
savepoint, and one that fails is done over one by one, so that an operation that fails does not
spoil its neighbours; one fsync covers all; nobody is answered before it. A disk that is full fails
the whole commit, every operation of it with StorageUnavailableError, and the next commit starts
afresh. A connection that is lost is opened again, and the commit is done over if the database says
that it did not happen.

What waits for something may ride along with the operations that bring it: it is carried out in
their commit, behind them.
"""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Generic, TypeVar

from ..errors import StorageUnavailableError
from ..numbers import Measurements
from .engine import Begun, Connection, Engine, Touched
from .transaction import Transaction, flush_finished, flush_tallies

T = TypeVar("T")
Item = TypeVar("Item")
Operation = Callable[[Transaction], T]
Combined = Callable[[Transaction, Sequence[Item]], Sequence[T | Exception]]
"""Carries out several items of its kind, in their order; what it returns for one may be an error,
which then has changed nothing."""
OnCommit = Callable[[set[str], Measurements], None]

MAX_OPERATIONS_PER_COMMIT = 512
MAX_WAITING = 20_000
PATIENCE_SECONDS = 2.0
"""How long a lost database is waited for before those who ask are told that it is lost."""
FIRST_PAUSE_SECONDS = 0.02
LONGEST_PAUSE_SECONDS = 0.5
MOST_RIDDEN_WITH = 64
"""Nothing rides along with more new jobs than these: whoever brings them would wait for it."""


@dataclass(slots=True)
class _Request(Generic[T]):
    kind: Combined[Any, T]
    item: Any
    future: asyncio.Future[T]
    undo: Callable[[T], Operation[Any] | None] | None
    workers: Collection[str] = ()
    jobs: Collection[str] = ()
    new_jobs: int = 0
    topics: Collection[str] = ()
    """What it brings news of, or rides along with."""
    boarded_at: float | None = None
    """When it joined a commit that it rides along with (monotonic)."""
    result: T | None = None
    error: BaseException | None = None


@dataclass(slots=True)
class _Group:
    """Requests that are carried out together."""

    kind: Combined[Any, Any]
    requests: list[_Request[Any]] = field(default_factory=list)
    jobs: set[str] = field(default_factory=set)


_Run = Callable[[Connection, _Group, Transaction], bool]


@dataclass(slots=True)
class _Outcome:
    """What the operations of one commit have done."""

    topics: set[str] = field(default_factory=set)
    measured: Measurements = field(default_factory=Measurements)
    tally: Counter[tuple[str, str]] = field(default_factory=Counter)
    finished: dict[int, str | None] = field(default_factory=dict)

    def add(self, done: Transaction) -> None:
        self.tally.update(done.tally)
        self.finished |= done.finished
        self.topics |= done.topics
        self.measured.add(done.measured)


class Writer:
    """Runs operations on one connection, in the order they came, from one event loop.

    `on_commit` is called in the loop, after a commit and before its operations are answered, with
    the topics to wake and what was measured.
    """

    def __init__(self, engine: Engine, on_commit: OnCommit) -> None:
        self._engine = engine
        self._on_commit = on_commit
        self._queue: queue.SimpleQueue[_Request[Any] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._connection: Connection | None = None
        self._failing_since: float | None = None
        self._numbers: list[int] = []
        self._closed = False
        self._riders: dict[int, _Request[Any]] = {}
        """Those that wait for a commit to ride along with, the oldest first."""
        self._boarding = threading.Lock()

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
        workers: Collection[str] = (),
        jobs: Collection[str] = (),
    ) -> T:
        """Return the operation's result once it is durable.

        `workers` and `jobs` are those it will change, as far as the caller knows. If the caller
        is cancelled before the operation began, it does not happen; if it happened by then,
        `undo` gives the operation that takes it back, and that one is run.
        """
        return await self._ask(_alone, operation, undo, workers, jobs)

    async def run_combined(
        self,
        kind: Combined[Item, T],
        item: Item,
        *,
        undo: Callable[[T], Operation[Any] | None] | None = None,
        workers: Collection[str] = (),
        jobs: Collection[str] = (),
        new_jobs: int = 0,
        topics: Collection[str] = (),
    ) -> T:
        """Do the same with an item that is carried out together with others of its kind.

        Items that name the same job are carried out in the order in which they came, also across
        kinds; others may change places within a commit. `topics` are what new jobs are news of.
        """
        return await self._ask(kind, item, undo, workers, jobs, new_jobs, topics)

    async def ride(
        self,
        kind: Combined[Item, T],
        item: Item,
        until: Awaitable[object],
        *,
        topics: Collection[str],
        undo: Callable[[T], Operation[Any] | None] | None = None,
        workers: Collection[str] = (),
    ) -> tuple[T, float] | None:
        """Carry an item out in the first commit of new jobs that are news of one of `topics`.

        Return the result once it is durable, and a time (monotonic) before it came about; None
        where there was no such commit before `until` was over, or it failed. `topics` are heard
        of whatever becomes of a commit, so `until` should listen to them. Cancelling is as in
        run().
        """
        assert self._loop is not None
        future: asyncio.Future[T] = self._loop.create_future()
        request = _Request(kind, item, future, undo, workers, topics=topics)
        with self._boarding:
            self._riders[id(request)] = request
        try:
            await until
        except BaseException:
            self._abandon(request)
            raise
        if self._leave(request):
            return None
        try:
            result = await future
        except asyncio.CancelledError:
            self._abandon(request)
            raise
        except Exception:  # noqa: BLE001  who asks by itself next is told
            return None
        assert request.boarded_at is not None
        return result, request.boarded_at

    def _abandon(self, request: _Request[Any]) -> None:
        """Have a rider's operation not happen, or be taken back."""
        left = self._leave(request) or request.future.cancel()
        if not left and not request.future.cancelled():
            _forget(request.future)
            self._undo(request)

    def _leave(self, request: _Request[Any]) -> bool:
        """Ride along with nothing any more; False where that is too late."""
        with self._boarding:
            return self._riders.pop(id(request), None) is not None

    async def _ask(
        self,
        kind: Combined[Any, T],
        item: Any,
        undo: Callable[[T], Operation[Any] | None] | None,
        workers: Collection[str],
        jobs: Collection[str],
        new_jobs: int = 0,
        topics: Collection[str] = (),
    ) -> T:
        if self._closed or self._loop is None:
            raise StorageUnavailableError("CORTEX is shutting down.")
        if self._queue.qsize() >= MAX_WAITING:
            raise StorageUnavailableError("CORTEX is overloaded; try again in a moment.")
        future: asyncio.Future[T] = self._loop.create_future()
        request = _Request(kind, item, future, undo, workers, jobs, new_jobs, topics)
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
            self._connection = self._engine.connect_writer()
        except BaseException as error:  # noqa: BLE001  it is handed to whoever started us
            self._loop.call_soon_threadsafe(opened.set_exception, error)
            return
        self._loop.call_soon_threadsafe(opened.set_result, None)
        try:
            while batch := self._next_batch():
                self._commit_batch(batch)
        finally:
            self._drop_connection()

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

    def _commit_batch(self, batch: list[_Request[Any]]) -> None:
        batch = [request for request in batch if not request.future.cancelled()]
        riders = self._board(batch)
        try:
            outcome = self._commit_or_retry([*batch, *riders])
        except Exception as error:  # noqa: BLE001  whoever asked is told; the thread must live
            failure = self._engine.explain(error) or error
            for request in (*batch, *riders):
                request.error = failure
            outcome = _Outcome()
        assert self._loop is not None
        if not self._loop.is_closed():
            topics = outcome.topics.union(*(rider.topics for rider in riders))
            measured = outcome.measured
            self._loop.call_soon_threadsafe(self._deliver, riders, batch, topics, measured)

    def _board(self, batch: Sequence[_Request[Any]]) -> list[_Request[Any]]:
        """Those that ride along, not more than there are new jobs."""
        room = sum(request.new_jobs for request in batch)
        if not self._riders or not 0 < room <= MOST_RIDDEN_WITH:
            return []
        topics = set().union(*(request.topics for request in batch))
        now = time.monotonic()
        with self._boarding:
            fitting = (one for one in self._riders.values() if not topics.isdisjoint(one.topics))
            riders = list(islice(fitting, room))
            for rider in riders:
                rider.boarded_at = now
                del self._riders[id(rider)]
        return riders

    def _commit_or_retry(self, batch: list[_Request[Any]]) -> _Outcome:
        """Commit once, however often the connection is lost meanwhile; raise when it takes long."""
        pause = FIRST_PAUSE_SECONDS
        doubt: tuple[str, _Outcome] | None = None
        while True:
            try:
                connection = self._connected()
                if doubt is None or not self._engine.was_committed(connection, doubt[0]):
                    doubt = None
                    begun, outcome = self._carry_out(connection, batch)
                    doubt = begun.receipt, outcome
                    self._engine.commit(connection, outcome.topics)
                self._failing_since = None
                return doubt[1]
            except Exception as error:
                self._recover(error)
                if not self._engine.may_pass(error) or self._fails_for_long():
                    raise
            time.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)

    def _connected(self) -> Connection:
        if self._connection is None:
            self._connection = self._engine.connect_writer()
        return self._connection

    def _recover(self, error: Exception) -> None:
        """After a failure, have a connection without a transaction, or none."""
        if self._engine.may_pass(error):
            self._failing_since = self._failing_since or time.monotonic()
        if self._engine.is_lost(error):
            self._drop_connection()
        elif self._connection is not None and self._connection.in_transaction:
            # SQLite has rolled back by itself when a failure was bad enough.
            with suppress(Exception):
                self._connection.roll_back()

    def _fails_for_long(self) -> bool:
        since = self._failing_since
        return since is not None and time.monotonic() - since > PATIENCE_SECONDS

    def _drop_connection(self) -> None:
        if self._connection is not None:
            with suppress(Exception):  # it may be broken, which is why it is dropped
                self._connection.close()
            self._connection = None

    def _carry_out(
        self, connection: Connection, batch: list[_Request[Any]]
    ) -> tuple[Begun, _Outcome]:
        """Do everything but commit: first in a hurry, and if anything fails, step by step."""
        groups = _groups(batch)
        touched = _touched(groups)
        hurry = self._engine.hurry(connection)
        if hurry is not None:
            begun = self._engine.begin(connection, touched)
            try:
                with hurry:
                    return begun, self._run_all(connection, groups, begun, self._run_plainly)
            except Exception as error:
                if self._engine.spoils_all(error):
                    raise
            connection.roll_back()
        begun = self._engine.begin(connection, touched)
        return begun, self._run_all(connection, groups, begun, self._run_in_savepoint)

    def _run_all(
        self, connection: Connection, groups: Collection[_Group], begun: Begun, run: _Run
    ) -> _Outcome:
        outcome = _Outcome()
        self._numbers = list(reversed(begun.numbers))
        for group in groups:
            for some in self._run_group(connection, group, begun, run):
                outcome.add(some)
        last = self._transaction(connection, begun)
        flush_tallies(last, outcome.tally)
        flush_finished(last, outcome.finished)
        connection.flush()
        return outcome

    def _run_group(
        self, connection: Connection, group: _Group, begun: Begun, run: _Run
    ) -> Iterator[Transaction]:
        """Carry a group out; if it fails, one request after the other. Yield what did well."""
        transaction = self._transaction(connection, begun)
        if run(connection, group, transaction):
            yield transaction
        elif len(group.requests) > 1:
            for request in group.requests:
                alone = _Group(group.kind, [request])
                yield from self._run_group(connection, alone, begun, run)

    def _transaction(self, connection: Connection, begun: Begun) -> Transaction:
        shared = self._engine.shared
        return Transaction(connection, begun.now(), shared=shared, numbers=self._numbers)

    def _run_plainly(self, connection: Connection, group: _Group, tx: Transaction) -> bool:
        results = group.kind(tx, [request.item for request in group.requests])
        for request, result in zip(group.requests, results, strict=True):
            request.result = request.error = None
            if isinstance(result, Exception):
                request.error = result
            else:
                request.result = result
        return True

    def _run_in_savepoint(self, connection: Connection, group: _Group, tx: Transaction) -> bool:
        """Run a group, and say whether it did well; if it did not, it did nothing."""
        connection.execute("SAVEPOINT operation")
        try:
            self._run_plainly(connection, group, tx)
            connection.flush()
        except Exception as error:
            if self._engine.spoils_all(error) or not connection.in_transaction:
                raise
            connection.roll_back("operation")
            connection.execute("RELEASE operation")
            for request in group.requests:
                request.result, request.error = None, error
            return False
        connection.execute("RELEASE operation")
        return True

    # ------------------------------------------------ in the loop

    def _deliver(
        self,
        riders: list[_Request[Any]],
        batch: list[_Request[Any]],
        topics: set[str],
        measured: Measurements,
    ) -> None:
        """Answer everybody; where some rode along, they get on first, since work waits for them."""
        assert self._loop is not None
        try:
            self._on_commit(topics, measured)
        finally:
            self._answer_all(riders)
            if riders:
                self._loop.call_soon(self._answer_all, batch)
            else:
                self._answer_all(batch)

    def _answer_all(self, requests: list[_Request[Any]]) -> None:
        for request in requests:
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
            self._queue.put(_Request(_alone, operation, future, None))


def _alone(tx: Transaction, operations: Sequence[Operation[Any]]) -> list[Any]:
    """The kind of operations that have nothing in common: each is a group of its own."""
    return [operation(tx) for operation in operations]


def _groups(batch: Collection[_Request[Any]]) -> list[_Group]:
    """Put requests of a kind together, as far as none overtakes another that names its jobs.

    Those that name jobs go before those that take whatever jobs there are, and so lock theirs
    while nothing else is locked. Those that ride along come last.
    """
    groups: list[_Group] = []
    naming: list[_Group] = []
    taking: list[_Group] = []
    riding: list[_Group] = []
    for request in batch:
        if request.boarded_at is not None:
            _open_group(request, riding).requests.append(request)
        elif request.kind is _alone:
            groups += [*naming, *taking, _Group(_alone, [request], set(request.jobs))]
            naming, taking = [], []
        elif request.jobs:
            group = _open_group(request, naming)
            group.jobs.update(request.jobs)
            group.requests.append(request)
        else:
            _open_group(request, taking).requests.append(request)
    return [*groups, *naming, *taking, *riding]


def _open_group(request: _Request[Any], groups: list[_Group]) -> _Group:
    """The last group of the request's kind, or a new one where it would overtake another."""
    for group in reversed(groups):
        if group.kind is request.kind:
            return group
        if not group.jobs.isdisjoint(request.jobs):
            break
    groups.append(_Group(request.kind))
    return groups[-1]


def _touched(groups: Sequence[_Group]) -> Touched:
    """What to lock beforehand.

    A group that is the only one to name jobs locks them in their order by itself.
    """
    workers: set[str] = set()
    for group in groups:
        for request in group.requests:
            workers.update(request.workers)
    new_jobs = sum(request.new_jobs for group in groups for request in group.requests)
    naming = [group for group in groups if group.jobs]
    if len(naming) == 1 and naming[0] is groups[0] and naming[0].kind is not _alone:
        return Touched(workers, new_jobs=new_jobs)
    return Touched(workers, set().union(*(group.jobs for group in naming)), new_jobs)


def _forget(future: asyncio.Future[Any]) -> None:
    if not future.cancelled():
        future.exception()
