"""The promise that every store keeps, whatever database it is made of.

  - Nothing is answered before it is durable.
  - A call either happens whole or not at all; one that fails has changed nothing.
  - Every call about an attempt is fenced: it changes something only if that attempt holds the job
    and the caller is the worker that was given it.
  - Times are the store's own clock.

tests/integration/cortex holds one behaviour suite that runs unchanged against each store.
Every method may raise StorageUnavailableError.
"""

from __future__ import annotations

from collections.abc import Awaitable, Collection, Mapping, Sequence
from typing import Protocol

from .batches.store import FilesAndBatches
from .keys.store import KeyStore
from .numbers import QueueNumbers, Totals
from .records import (
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

MAX_PAGE_BYTES = 16 * 1024 * 1024
"""A page of jobs ends early where their texts would be more than this."""


class JobStore(Protocol):
    """What people do with jobs."""

    async def submit(self, jobs: Sequence[NewJob]) -> list[Submitted]:
        """Store jobs in one commit; the same idempotency key gives the first job back."""

    async def get_job(self, job_id: str) -> JobRecord:
        """Return a job with its input and result. Raises JobNotFoundError."""

    async def get_attempts(self, job_id: str) -> list[AttemptRecord]:
        """Return the history of a job's attempts, oldest first."""

    async def list_jobs(self, query: JobFilter) -> list[JobRecord]:
        """Return jobs, newest first; fewer than asked for when they fill MAX_PAGE_BYTES."""

    async def cancel_job(self, job_id: str) -> None:
        """Stop a job. Raises JobNotFoundError; ConflictError when it ended otherwise."""

    async def cancel_group(self, group: str) -> int:
        """Stop every unfinished job of a group, and return how many were asked to stop."""

    async def retry_job(self, job_id: str) -> None:
        """Queue an ended job again. Raises JobNotFoundError, ConflictError."""

    async def redrive(self, which: DeadLetters, after_seq: int, limit: int) -> Redriven:
        """Queue ended jobs again, the oldest first, in one small commit.

        Which were submitted after `after_seq`, at most `limit` and what a step allows.
        """

    async def count_dead_letters(self, which: DeadLetters, limit: int) -> int:
        """Count what redriving would queue again, up to `limit`."""

    async def read_events(self, job_id: str, from_sequence: int, limit: int) -> EventPage:
        """Return a page of a job's log, at most `limit` lines.

        A log that was pruned and goes on begins with its first line that is kept.
        Raises JobNotFoundError, LogPrunedError.
        """

    async def group_results(self, group: str, after: int, limit: int) -> list[JobRecord]:
        """Return finished jobs of a group in finishing order, after a finish number.

        Fewer than asked for when they fill MAX_PAGE_BYTES.
        """

    async def group_counts(self, group: str) -> GroupCounts:
        """Say how a group stands."""

    async def waiting_of(self, key_id: str, most: int) -> int:
        """Count the jobs that wait and were submitted with a key, up to `most`."""

    async def queue_numbers(self) -> QueueNumbers:
        """Return the queue's numbers at this moment."""

    async def totals(self) -> Totals:
        """Return counts over everything stored."""


class RetentionStore(Protocol):
    """What is kept no longer, a little at a time. Nothing that has not ended ever goes."""

    async def prune_logs(self, kept_seconds: float, after_seq: int) -> PrunedStep:
        """Take away logs of jobs that ended so long ago, in one small commit."""

    async def find_old_jobs(self, kept_seconds: float, after_seq: int) -> OldJobs:
        """Return some jobs that ended so long ago, no more than one commit may take away."""

    async def prune_jobs(self, old: OldJobs) -> PrunedStep:
        """Take away jobs that were found, have not begun anew, and whose logs are gone."""

    async def forget_groups(self, groups: Collection[str]) -> None:
        """Drop the counts of those groups that have no job any more."""


class AttemptStore(Protocol):
    """What workers do with attempts."""

    async def claim(self, request: ClaimRequest) -> Claimed:
        """Lease jobs that fit, and say when to ask again for one that is left for another worker.

        If the caller is cancelled meanwhile, they are released again.
        """

    async def claim_along(
        self, request: ClaimRequest, topics: Collection[str], until: Awaitable[object]
    ) -> tuple[Claimed, float] | None:
        """Lease jobs in the very commit that brings some to one of `topics`.

        Return also a time before they were leased (monotonic); None: ask again, since `until` is
        over. If the caller is cancelled meanwhile, what was leased is released again.
        """

    async def waiting_lanes(self) -> list[WaitingLane]:
        """Return what jobs that could be claimed now ask for; costs the same however many wait."""

    async def renew(self, worker_id: str, refs: Sequence[AttemptRef]) -> list[RefVerdict]:
        """Extend leases to a whole lease from now. Raises WorkerUnknownError."""

    async def update_status(
        self, worker_id: str, updates: Sequence[StatusUpdate]
    ) -> list[RefVerdict]:
        """Move attempts forward; a step backwards changes nothing."""

    async def append_chunks(self, worker_id: str, chunks: Sequence[Chunk]) -> list[ChunkAck]:
        """Append tokens and rows to jobs' logs, each once and in order; one ack per attempt.

        As of a completion, those of a lost attempt count until another one begins.
        """

    async def report(self, worker_id: str, reports: Sequence[Report]) -> list[RefVerdict]:
        """End attempts; exactly one attempt of a job is ever accepted as its completion.

        That may be one that was lost, as long as the job waits and no other has begun.
        """

    async def release(self, worker_id: str, releases: Sequence[Release]) -> list[RefVerdict]:
        """Give jobs back to the queue at once, without charging a retry.

        What they turned out to need is asked of the next worker.
        """

    async def exchange(self, told: Exchange) -> Exchanged:
        """Do what `report`, `renew` and `claim` do, in this order and in one commit.

        If the caller is cancelled meanwhile, what was claimed is released again.
        """

    async def reap(self) -> Reaped:
        """End what is overdue: leases, timeouts, silent workers."""

    async def promote_due(self) -> float | None:
        """Queue delayed jobs that are due; return the seconds until the next one is, if any."""


class WorkerStore(Protocol):
    """What workers and people do with workers."""

    async def register(self, registration: Registration) -> float:
        """Make a worker known, and return when. A new instance loses the old one's jobs."""

    async def deregister(self, worker_id: str, reason: str, instance_id: str = "") -> None:
        """Forget a worker and release what it holds. Forgetting twice is fine.

        An instance that another one replaced forgets nothing.
        """

    async def heartbeat(self, heartbeat: HeartbeatRecord) -> list[ActionRecord]:
        """Note how a worker is; return its open actions.

        Raises WorkerUnknownError, WorkerReplacedError.
        """

    async def touch_worker(self, worker_id: str) -> None:
        """Note that a worker was heard. Raises WorkerUnknownError."""

    async def open_actions(self, worker_id: str) -> list[ActionRecord]:
        """Return actions not yet acknowledged, oldest first. Raises WorkerUnknownError."""

    async def direct_worker(
        self,
        worker_id: str,
        kind: str,
        desired: DesiredState,
        reason: str,
        deadline_seconds: float | None = None,
    ) -> None:
        """Ask an action of a worker and note the wish. Raises WorkerNotFoundError.

        `deadline_seconds` is how long its jobs may still take where the action is to leave;
        without it, what the worker itself allows.
        """

    async def watch(self, worker_id: str, instance_id: str, watch_id: str) -> bool:
        """Note which stream of actions a worker's process opened last.

        Returns whether this process is the one that is registered under the worker's id.
        """

    async def suspect(self, broken: Collection[tuple[str, str]], seconds: float) -> int:
        """Let no lease of some workers last longer than `seconds`; return how many were shortened.

        `broken` are workers, each with its stream that broke; a worker that has opened another
        since is left alone. A renewal gives a whole lease again.
        """

    async def get_worker(self, worker_id: str) -> WorkerRecord:
        """Return a worker. Raises WorkerNotFoundError."""

    async def list_workers(self) -> list[WorkerRecord]:
        """Return all workers, oldest registration first."""


class Weights(Protocol):
    """Whose turn it is among API keys."""

    def set_weights(self, weights: Mapping[str, float]) -> None:
        """Give keys their weights, from now on; those left out have 1. Raises ValueError."""


class Store(JobStore, AttemptStore, WorkerStore, RetentionStore, Protocol):
    """Everything CORTEX keeps."""

    @property
    def batches(self) -> FilesAndBatches:
        """Files and batches."""

    @property
    def keys(self) -> KeyStore:
        """API keys."""

    @property
    def shares(self) -> Weights:
        """Whose turn it is among API keys."""

    async def check_writable(self) -> None:
        """Write and commit something small. Raises StorageUnavailableError, saying why."""
