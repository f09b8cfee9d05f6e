"""The store on SQL: one writer thread, a few readers, one database."""

from __future__ import annotations

import random as random_module
from collections.abc import Awaitable, Callable, Collection, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from functools import partial
from types import TracebackType
from typing import Any, Self

from ..notifier import Notifier, runtime_topic, worker_topic
from ..numbers import Measurements, QueueNumbers, Totals
from ..records import (
    ActionRecord,
    AttemptRecord,
    AttemptRef,
    Chunk,
    ChunkAck,
    Claimed,
    ClaimRequest,
    DeadLetters,
    DesiredState,
    EventPage,
    Exchange,
    Exchanged,
    GroupCounts,
    HeartbeatRecord,
    JobFilter,
    JobRecord,
    NewJob,
    OldJobs,
    PrunedStep,
    Reaped,
    Redriven,
    RefVerdict,
    Registration,
    Release,
    Report,
    StatusUpdate,
    Submitted,
    WaitingLane,
    WorkerRecord,
)
from ..state_machine import MAX_LOST_WORKERS
from . import (
    attempts,
    claiming,
    exchanging,
    fleet,
    people,
    pruning,
    queries,
    reaping,
    redriving,
    submitting,
    suspicion,
    waiting,
)
from .batch_store import SqlBatchStore
from .engine import Connection, Engine
from .key_store import SqlKeyStore
from .readers import Readers
from .shares import Shares
from .transaction import Transaction
from .writer import Writer


class SqlStore:
    """The Store of one CORTEX process. An async context manager; a subclass opens its database.

    Entering raises StartError when the database cannot be used. Leaving commits what was asked
    for.
    """

    def __init__(
        self,
        engine: Engine,
        notifier: Notifier,
        *,
        lease_seconds: float = 15.0,
        worker_silence_seconds: float = 90.0,
        worker_retention_seconds: float = 86_400.0,
        timeout_grace_seconds: float = 10.0,
        max_lost_workers: int = MAX_LOST_WORKERS,
        shares: Shares | None = None,
        random: Callable[[], float] = random_module.random,
        measure: Callable[[Measurements], None] = lambda measurements: None,
    ) -> None:
        self._engine = engine
        self._notifier = notifier
        self._lease_seconds = lease_seconds
        self._worker_silence_seconds = worker_silence_seconds
        self._worker_retention_seconds = worker_retention_seconds
        self._timeout_grace_seconds = timeout_grace_seconds
        self._max_lost_workers = max_lost_workers
        self._random = random
        self._measure = measure
        self._stack = AsyncExitStack()
        self.shares = shares or Shares()
        claims: dict[str, Any] = {
            "lease_seconds": lease_seconds,
            "most_lost": max_lost_workers,
            "shares": self.shares,
        }
        self._claim = partial(claiming.claim, **claims)
        self._renew = partial(attempts.renew, lease_seconds=lease_seconds)
        self._report = partial(attempts.report, random=random)
        self._exchange = partial(exchanging.exchange, **claims, random=random)
        self._writer = Writer(engine, self._committed)
        self._readers = Readers(engine)
        self.batches = SqlBatchStore(self._writer, self._readers)
        self.keys = SqlKeyStore(self._writer, self._readers)

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            await self._open(stack)
            stack.push_async_callback(self._writer.close)
            await self._writer.start()
            stack.push_async_callback(self._readers.close)
            await self._opened()
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._stack.aclose()

    async def _open(self, stack: AsyncExitStack) -> None:
        """Make the database ready. Raises StartError."""
        raise NotImplementedError

    async def _opened(self) -> None:
        """Do what comes before the first call."""

    def _committed(self, topics: set[str], measured: Measurements) -> None:
        self._measure(measured)
        self._notifier.notify(topics)

    # ------------------------------------------------ jobs

    async def submit(self, jobs: Sequence[NewJob]) -> list[Submitted]:
        """Store jobs in one commit; the same idempotency key gives the first job back."""
        topics = {runtime_topic(new.runtime) for new in jobs}
        return await self._writer.run_combined(
            submitting.submit, jobs, new_jobs=len(jobs), topics=topics
        )

    async def get_job(self, job_id: str) -> JobRecord:
        """Return a job with its input and result. Raises JobNotFoundError."""
        return await self._readers.run(lambda db: queries.get_job(db, job_id))

    async def get_attempts(self, job_id: str) -> list[AttemptRecord]:
        """Return the history of a job's attempts, oldest first."""
        return await self._readers.run(lambda db: queries.get_attempts(db, job_id))

    async def list_jobs(self, query: JobFilter) -> list[JobRecord]:
        """Return jobs, newest first."""
        return await self._readers.run(lambda db: queries.list_jobs(db, query))

    async def cancel_job(self, job_id: str) -> None:
        """Stop a job. Raises JobNotFoundError; ConflictError when it ended otherwise."""
        await self._writer.run_combined(people.cancel, job_id, jobs=[job_id])

    async def cancel_group(self, group: str) -> int:
        """Stop every unfinished job of a group, and return how many were asked to stop."""
        return await self._writer.run(lambda tx: people.cancel_group(tx, group))

    async def retry_job(self, job_id: str) -> None:
        """Queue an ended job again. Raises JobNotFoundError, ConflictError."""
        await self._writer.run(lambda tx: people.retry(tx, job_id), jobs=[job_id])

    async def redrive(self, which: DeadLetters, after_seq: int, limit: int) -> Redriven:
        """Queue ended jobs again, the oldest first, in one small commit."""

        def find(db: Connection) -> tuple[DeadLetters, redriving.Found]:
            before = which.finished_before
            ended = replace(
                which, finished_before=self._engine.now(db) if before is None else before
            )
            return ended, redriving.find(db, ended, after_seq, limit)

        ended, found = await self._readers.run(find)
        count = 0
        if found.seqs:
            count = await self._writer.run(
                lambda tx: redriving.queue_again(tx, ended, found), jobs=found.job_ids
            )
        assert ended.finished_before is not None
        return Redriven(count, found.seqs[-1] if found.seqs else None, ended.finished_before)

    async def count_dead_letters(self, which: DeadLetters, limit: int) -> int:
        """Count what redriving would queue again, up to `limit`."""
        return await self._readers.run(lambda db: redriving.count(db, which, limit))

    async def read_events(self, job_id: str, from_sequence: int, limit: int) -> EventPage:
        """Return a page of a job's log. Raises JobNotFoundError, LogPrunedError."""
        return await self._readers.run(
            lambda db: queries.read_events(db, job_id, from_sequence, limit)
        )

    async def group_results(self, group: str, after: int, limit: int) -> list[JobRecord]:
        """Return finished jobs of a group in finishing order, after a finish number."""
        return await self._readers.run(lambda db: queries.group_results(db, group, after, limit))

    async def group_counts(self, group: str) -> GroupCounts:
        """Say how a group stands."""
        return await self._readers.run(lambda db: queries.group_counts(db, group))

    async def waiting_lanes(self) -> list[WaitingLane]:
        """Return what jobs that could be claimed now ask for."""
        return await self._readers.run(waiting.waiting_lanes)

    async def waiting_of(self, key_id: str, most: int) -> int:
        """Count the jobs that wait and were submitted with a key, up to `most`."""
        return await self._readers.run(lambda db: queries.waiting_of(db, key_id, most))

    async def queue_numbers(self) -> QueueNumbers:
        """Return the queue's numbers at this moment."""
        return await self._readers.run(lambda db: queries.queue_numbers(db, self._engine.now(db)))

    async def totals(self) -> Totals:
        """Return counts over everything stored."""
        return await self._readers.run(queries.totals)

    # ------------------------------------------------ retention

    async def prune_logs(self, kept_seconds: float, after_seq: int) -> PrunedStep:
        """Take away logs of jobs that ended so long ago, in one small commit."""
        due = await self._readers.run(
            lambda db: pruning.find_logs(db, self._engine.now(db) - kept_seconds, after_seq)
        )
        if not due.seqs:
            return PrunedStep(0, due.next_seq)
        return await self._writer.run(lambda tx: pruning.prune_logs(tx, due))

    async def find_old_jobs(self, kept_seconds: float, after_seq: int) -> OldJobs:
        """Return some jobs that ended so long ago, no more than one commit may take away."""
        return await self._readers.run(
            lambda db: pruning.find_jobs(db, self._engine.now(db) - kept_seconds, after_seq)
        )

    async def prune_jobs(self, old: OldJobs) -> PrunedStep:
        """Take away jobs that were found, have not begun anew, and whose logs are gone."""
        if not old.seqs:
            return PrunedStep(0, old.next_seq)
        return await self._writer.run(lambda tx: pruning.prune_jobs(tx, old))

    async def forget_groups(self, groups: Collection[str]) -> None:
        """Drop the counts of those groups that have no job any more."""
        await self._writer.run(lambda tx: pruning.forget_groups(tx, groups))

    # ------------------------------------------------ attempts

    async def claim(self, request: ClaimRequest) -> Claimed:
        """Lease jobs that fit. If the caller is cancelled meanwhile, they are released again."""
        return await self._writer.run_combined(
            self._claim,
            request,
            undo=partial(_release_claimed, request.worker_id),
            workers=[request.worker_id],
        )

    async def claim_along(
        self, request: ClaimRequest, topics: Collection[str], until: Awaitable[object]
    ) -> tuple[Claimed, float] | None:
        """Lease jobs in the very commit that brings some to one of `topics`.

        Return also a time before they were leased (monotonic); None: ask again, since `until` is
        over. If the caller is cancelled meanwhile, what was leased is released again.
        """
        return await self._writer.ride(
            self._claim,
            request,
            until,
            topics=topics,
            undo=partial(_release_claimed, request.worker_id),
            workers=[request.worker_id],
        )

    async def renew(self, worker_id: str, refs: Sequence[AttemptRef]) -> list[RefVerdict]:
        """Extend leases to a whole lease from now."""
        return await self._writer.run_combined(
            self._renew,
            (worker_id, refs),
            workers=[worker_id],
            jobs=[ref.job_id for ref in refs],
        )

    async def update_status(
        self, worker_id: str, updates: Sequence[StatusUpdate]
    ) -> list[RefVerdict]:
        """Move attempts forward; a step backwards changes nothing."""
        return await self._writer.run_combined(
            attempts.update_status,
            (worker_id, updates),
            jobs=[update.job_id for update in updates],
        )

    async def append_chunks(self, worker_id: str, chunks: Sequence[Chunk]) -> list[ChunkAck]:
        """Append tokens and rows to jobs' logs, each once and in order; one ack per attempt."""
        return await self._writer.run_combined(
            attempts.append_chunks,
            (worker_id, chunks),
            jobs={chunk.job_id for chunk in chunks},
        )

    async def report(self, worker_id: str, reports: Sequence[Report]) -> list[RefVerdict]:
        """End attempts; exactly one attempt of a job is ever accepted as its completion."""
        verdicts = await self._writer.run_combined(
            self._report,
            (worker_id, reports),
            workers=[worker_id],
            jobs=[report.job_id for report in reports],
        )
        self._has_free_slots(worker_id)
        return verdicts

    async def release(self, worker_id: str, releases: Sequence[Release]) -> list[RefVerdict]:
        """Give jobs back to the queue at once, asking for more memory where it was too little."""
        verdicts = await self._writer.run_combined(
            attempts.release,
            (worker_id, releases),
            jobs=[release.job_id for release in releases],
        )
        self._has_free_slots(worker_id)
        return verdicts

    async def exchange(self, told: Exchange) -> Exchanged:
        """Report, renew and claim in one commit; a claim whose caller is gone is released."""
        exchanged: Exchanged = await self._writer.run_combined(
            self._exchange,
            told,
            undo=partial(_release_exchanged, told.worker_id),
            workers=[told.worker_id],
            jobs=exchanging.jobs_named(told),
        )
        if told.reports:
            self._has_free_slots(told.worker_id)
        return exchanged

    def _has_free_slots(self, worker_id: str) -> None:
        """Wake a worker's claims if jobs of batches were left to keep its last slots free."""
        if worker_id in self.shares.held_back:
            self.shares.held_back.discard(worker_id)
            self._notifier.notify([worker_topic(worker_id)])

    async def reap(self) -> Reaped:
        """End what is overdue: leases, timeouts, silent workers."""
        return await self._writer.run(self._reap)

    def _reap(self, tx: Transaction) -> Reaped:
        expired = reaping.expire_leases(tx, self._max_lost_workers, self._random)
        overdue = reaping.end_overdue(tx, self._timeout_grace_seconds, self._random)
        silent = reaping.lose_workers(
            tx, self._worker_silence_seconds, self._worker_retention_seconds
        )
        return Reaped(
            leases_expired=expired.leases_expired,
            timed_out=overdue.timed_out,
            workers_lost=silent.workers_lost,
            workers_forgotten=silent.workers_forgotten,
        )

    async def promote_due(self) -> float | None:
        """Queue delayed jobs that are due; return the seconds until the next one is, if any."""
        return await self._writer.run(reaping.promote_due)

    # ------------------------------------------------ workers

    async def register(self, registration: Registration) -> float:
        """Make a worker known, and return when. A new instance loses the old one's jobs."""
        most_lost, random = self._max_lost_workers, self._random
        return await self._writer.run(
            lambda tx: fleet.register(tx, registration, most_lost, random),
            workers=[registration.worker_id],
        )

    async def deregister(self, worker_id: str, reason: str, instance_id: str = "") -> None:
        """Forget a worker and release what it holds; nothing for an instance that was replaced."""
        await self._writer.run(
            lambda tx: fleet.deregister(tx, worker_id, reason, instance_id), workers=[worker_id]
        )

    async def heartbeat(self, heartbeat: HeartbeatRecord) -> list[ActionRecord]:
        """Note how a worker is; return its open actions."""
        return await self._writer.run(
            lambda tx: fleet.heartbeat(tx, heartbeat), workers=[heartbeat.worker_id]
        )

    async def touch_worker(self, worker_id: str) -> None:
        """Note that a worker was heard. Raises WorkerUnknownError."""
        await self._writer.run(lambda tx: fleet.touch(tx, worker_id), workers=[worker_id])

    async def open_actions(self, worker_id: str) -> list[ActionRecord]:
        """Return actions not yet acknowledged, oldest first. Raises WorkerUnknownError."""
        return await self._writer.run(
            lambda tx: fleet.open_actions(tx, worker_id), workers=[worker_id]
        )

    async def direct_worker(
        self,
        worker_id: str,
        kind: str,
        desired: DesiredState,
        reason: str,
        deadline_seconds: float | None = None,
    ) -> None:
        """Ask an action of a worker and note the wish. Raises WorkerNotFoundError."""
        await self._writer.run(
            lambda tx: fleet.direct(tx, worker_id, kind, desired, reason, deadline_seconds),
            workers=[worker_id],
        )

    async def watch(self, worker_id: str, instance_id: str, watch_id: str) -> bool:
        """Note which stream of actions a worker's process opened last."""
        return await self._writer.run(
            lambda tx: suspicion.watch(tx, worker_id, instance_id, watch_id), workers=[worker_id]
        )

    async def suspect(self, broken: Collection[tuple[str, str]], seconds: float) -> int:
        """Let no lease of workers whose last stream broke last longer than `seconds`."""
        return await self._writer.run(
            lambda tx: suspicion.suspect(tx, broken, seconds),
            workers={worker_id for worker_id, _ in broken},
        )

    async def get_worker(self, worker_id: str) -> WorkerRecord:
        """Return a worker. Raises WorkerNotFoundError."""
        return await self._readers.run(lambda db: fleet.get_worker(db, worker_id))

    async def list_workers(self) -> list[WorkerRecord]:
        """Return all workers, oldest registration first."""
        return await self._readers.run(fleet.list_workers)

    async def check_writable(self) -> None:
        """Write and commit something small. Raises StorageUnavailableError, saying why."""
        await self._writer.run(lambda tx: tx.count("probe", "writes", +1))


def _release_claimed(
    worker_id: str, claimed: Claimed
) -> Callable[[Transaction], list[RefVerdict]] | None:
    if not claimed.jobs:
        return None
    reason = "the worker went away before it was given the job"
    releases = [Release(one.job.job_id, one.job.attempt, reason) for one in claimed.jobs]
    return lambda tx: attempts.release(tx, [(worker_id, releases)])[0]


def _release_exchanged(
    worker_id: str, exchanged: Exchanged
) -> Callable[[Transaction], list[RefVerdict]] | None:
    claimed = exchanged.claimed
    return None if claimed is None else _release_claimed(worker_id, claimed)
