"""What goes into the store and comes out of it. JSON stays text: CORTEX carries, workers read."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import field
from enum import StrEnum
from typing import NamedTuple

from .errors import CortexError
from .frozen import frozen
from .state_machine import JobState


class Fence(StrEnum):
    """What became of a call about one attempt; the words of the contract's Verdict."""

    ACCEPTED = "accepted"
    DUPLICATE = "duplicate"
    STALE = "stale"
    CANCELLED = "cancelled"


class DesiredState(StrEnum):
    """What a person wants a worker to be."""

    ACTIVE = "active"
    PAUSED = "paused"
    DRAINING = "draining"


@frozen()
class AttemptRef:
    """One attempt at one job: what a lease is on."""

    job_id: str
    attempt: int


@frozen()
class RefVerdict:
    """The answer about one attempt."""

    job_id: str
    attempt: int
    verdict: Fence


# ---------------------------------------------------------------- jobs


@frozen()
class NewJob:
    """A job to be stored. `input`, `runtime_config`, `retry_config`, `metadata` are JSON text."""

    job_id: str
    job_type: str
    priority: int
    family: str
    version: str
    runtime: str
    runtime_config: str
    input: str
    timeout_seconds: int
    retry_config: str
    metadata: str
    request_hash: str
    min_memory_mb: int = 0
    min_gpu_memory_mb: int = 0
    tags: Mapping[str, str] = field(default_factory=dict)
    group: str | None = None
    idempotency_key: str | None = None
    trace: str | None = None
    row_count: int = 0
    """How many rows a batch or an evaluation has."""
    key_id: str = ""
    """The API key that it was submitted with; "" where none was asked for."""
    is_batch: bool = False
    """Whether it is a line of a batch, for which nobody waits at this moment."""


@frozen()
class Submitted:
    """What became of one NewJob; `conflict` is a sentence when its key belongs to another body."""

    job_id: str
    status: JobState
    created: bool
    conflict: str | None = None
    submitted_at: float | None = None
    """When, of a job that was created."""


@frozen(kw_only=True)
class JobRecord:
    """A job as it stands. `input` and `result` are None where a query leaves them out."""

    seq: int
    job_id: str
    status: JobState
    job_type: str
    priority: int
    family: str
    version: str
    runtime: str
    runtime_config: str
    input: str | None
    timeout_seconds: int
    retry_config: str
    metadata: str
    min_memory_mb: int
    min_gpu_memory_mb: int
    tags: str
    group: str | None
    idempotency_key: str | None
    trace: str | None
    attempt: int
    retries_used: int
    engine_crashes: int
    lost_workers: int
    worker_id: str | None
    status_message: str | None
    cancel_requested: bool
    delayed: bool
    submitted_at: float
    available_at: float
    started_at: float | None
    finished_at: float | None
    finish_seq: int | None
    result: str | None
    output_metadata: str | None
    metrics: str | None
    error_code: str | None
    error: str | None
    error_retryable: bool | None
    key_id: str = ""
    """The API key that it was submitted with; "" where none was asked for."""

    @property
    def payload_bytes(self) -> int:
        """About how much memory the job's texts take."""
        return len(self.input or "") + len(self.result or "") + len(self.metadata)


@frozen(kw_only=True)
class AttemptRecord:
    """One attempt in a job's history."""

    attempt: int
    worker_id: str
    started_at: float
    ended_at: float | None
    outcome: str | None
    error_code: str | None
    error: str | None


@frozen(kw_only=True)
class JobFilter:
    """Which jobs a list shows; None means any."""

    statuses: Sequence[JobState] = ()
    family: str | None = None
    version: str | None = None
    worker_id: str | None = None
    group: str | None = None
    job_type: str | None = None
    error_code: str | None = None
    key_id: str | None = None
    submitted_after: float | None = None
    submitted_before: float | None = None
    before_seq: int | None = None
    limit: int = 50
    full: bool = False


@frozen(kw_only=True)
class DeadLetters:
    """Which ended jobs are meant; None means any. Times are those of their end, both included."""

    statuses: Sequence[JobState] = (JobState.FAILED,)
    family: str | None = None
    version: str | None = None
    group: str | None = None
    error_code: str | None = None
    finished_after: float | None = None
    finished_before: float | None = None


@frozen()
class Redriven:
    """What one step queued again, and where the next one begins: None when there is none."""

    jobs: int
    next_seq: int | None
    finished_before: float
    """Only jobs that had ended by then were meant: those that fail anew are not."""


@frozen()
class OldJobs:
    """Jobs that ended long ago, as found; and where to look on: None when all was looked at."""

    seqs: Sequence[int]
    ended_before: float
    next_seq: int | None
    stored: Mapping[str, int]
    """Those whose answer lies in ENGRAM: by job id, their number in `seqs`."""


@frozen()
class PrunedStep:
    """What one step took away, and where the next one begins: None when all was looked at."""

    jobs: int
    next_seq: int | None
    groups: Collection[str] = ()
    """Groups that lost jobs."""


@frozen()
class EventRecord:
    """One line of a job's log; `data` is JSON text."""

    sequence: int
    kind: str
    data: str


@frozen()
class EventPage:
    """Some events in order, and whether the job had ended when they were read."""

    events: Sequence[EventRecord]
    ended: bool


@frozen()
class GroupCounts:
    """How a group stands."""

    total: int
    pending: int
    running: int
    finished: int


# ---------------------------------------------------------------- attempts


class Model(NamedTuple):
    """A model's files, whatever runs them."""

    family: str
    version: str


@frozen()
class ModelKey:
    """A model on a runtime."""

    family: str
    version: str
    runtime: str


MOST_COUNTED = 16
"""Of a lane's waiting jobs no more are counted: beyond it is only said that they are many."""


@frozen(kw_only=True)
class WaitingLane:
    """Jobs that could be claimed now and demand the same of a worker; `tags` is JSON text.

    Priority and time are those of the job that goes first.
    """

    model: ModelKey
    job_type: str
    min_memory_mb: int
    min_gpu_memory_mb: int
    tags: str
    priority: int
    submitted_at: float
    jobs: int
    """How many there are, up to MOST_COUNTED."""


@frozen()
class LoadedModel:
    """A model that a worker has loaded, and how many jobs run on it now."""

    key: ModelKey
    load_seconds: float = 0.0
    memory_mb: int = 0
    active_jobs: int = 0


@frozen(kw_only=True)
class ClaimRequest:
    """What a worker asks for, and with what in hand.

    The available memory is what the worker could give to a model, idle ones unloaded.
    """

    worker_id: str
    max_jobs: int
    instance_id: str = ""
    request_id: str = ""
    models: Sequence[LoadedModel] = ()
    on_disk: Collection[Model] = ()
    """Models whose files it has, as far as that is known."""
    memory_available_mb: int = 0
    gpu_memory_available_mb: int = 0
    max_bytes: int = 3 * 1024 * 1024


@frozen()
class FinishedRow:
    """A finished row of a batch or an evaluation; `result` is one JSON object as text."""

    index: int
    result: str


@frozen()
class Progress:
    """What earlier attempts streamed of an answer: every token, and the text readers have."""

    token_ids: Sequence[int]
    text: str


@frozen()
class LeasedJob:
    """A job just given to a worker, with what earlier attempts brought that still counts."""

    job: JobRecord
    lease_seconds: float
    time_left_seconds: float
    rows: Sequence[FinishedRow] = ()
    progress: Progress | None = None


@frozen()
class Claimed:
    """The jobs that a worker is given, and when to ask again though nothing new has come.

    `again_in_seconds` is set when a job that fits is left for a warmer worker until then.
    """

    jobs: Sequence[LeasedJob]
    again_in_seconds: float | None = None


@frozen()
class StatusUpdate:
    """A running job's new status, and words for a person."""

    job_id: str
    attempt: int
    status: JobState
    message: str = ""


@frozen()
class Chunk:
    """Some tokens, or a finished row; `sequence` counts from 0 within the attempt."""

    job_id: str
    attempt: int
    sequence: int
    content: str
    token_ids: Sequence[int]
    row: FinishedRow | None = None


@frozen()
class ChunkAck:
    """Chunks before `next_sequence` are durable."""

    job_id: str
    attempt: int
    next_sequence: int
    verdict: Fence


@frozen(kw_only=True)
class Report:
    """How an attempt ended, as its worker says. `result`, `metadata`, `metrics` are JSON text.

    A cancelled or timed-out attempt may have a result too: what it had got to.
    """

    job_id: str
    attempt: int
    status: JobState
    result: str | None = None
    output_metadata: str = "{}"
    metrics: str = "{}"
    error: str = ""
    error_code: str = "internal"
    retryable: bool = False
    engine_jobs: int = 0
    """How many jobs an engine ran when it died, this one included; 0 when that is not told."""


@frozen()
class Release:
    """A job that its worker hands back unfinished.

    `min_memory_mb` and `min_gpu_memory_mb` say what it turned out to need; 0 is nothing new.
    """

    job_id: str
    attempt: int
    reason: str = ""
    min_memory_mb: int = 0
    min_gpu_memory_mb: int = 0


@frozen(kw_only=True)
class Exchange:
    """What a worker tells and asks at one time: ended attempts, leases to extend, jobs it wants."""

    worker_id: str
    reports: Sequence[Report] = ()
    renewals: Sequence[AttemptRef] = ()
    wanted: ClaimRequest | None = None


@frozen()
class Exchanged:
    """The answer to an Exchange, part by part and in its order.

    What was reported counts even where the rest is refused: its worker has to register again, or
    another process has its id.
    """

    reported: Sequence[RefVerdict] = ()
    renewed: Sequence[RefVerdict] = ()
    claimed: Claimed | None = None
    refusal: CortexError | None = None


@frozen()
class Reaped:
    """What one round of the reaper did."""

    leases_expired: int = 0
    timed_out: int = 0
    workers_lost: int = 0
    workers_forgotten: int = 0


# ---------------------------------------------------------------- workers


@frozen(kw_only=True)
class Registration:
    """A worker that makes itself known. Capabilities and resources are JSON text."""

    worker_id: str
    instance_id: str
    hostname: str
    ip_address: str
    version: str
    capabilities: str
    resources: str
    tags: str


@frozen(kw_only=True)
class HeartbeatRecord:
    """How a worker is. Resources and models are JSON text."""

    worker_id: str
    status: str
    status_reason: str
    resources: str | None
    models: str
    acknowledged_actions: Sequence[str] = ()
    instance_id: str = ""


@frozen(kw_only=True)
class WorkerRecord:
    """A worker as CORTEX knows it. Capabilities, resources, tags and models are JSON text."""

    worker_id: str
    instance_id: str
    hostname: str
    ip_address: str
    version: str
    capabilities: str
    resources: str
    tags: str
    models: str
    status: str
    status_reason: str
    offered_memory_mb: int
    offered_gpu_memory_mb: int
    """The most that it ever offered to a model when it asked for jobs; 0 before it asked."""
    desired_state: DesiredState
    lost: bool
    total_jobs_completed: int
    total_jobs_failed: int
    last_heartbeat: float
    last_seen: float
    registered_at: float
    current_jobs: Sequence[str] = ()

    @property
    def shown_status(self) -> str:
        """The one word for a person: what CORTEX knows goes before what the worker said."""
        if self.lost:
            return "lost"
        if self.desired_state is DesiredState.PAUSED and self.status in {"idle", "busy"}:
            return "paused"
        return self.status


@frozen()
class ActionRecord:
    """Something asked of a worker, kept until the worker says that it knows."""

    action_id: str
    worker_id: str
    kind: str
    reason: str = ""
    jobs: Sequence[AttemptRef] = ()
    config: str = ""
    deadline_seconds: float | None = None
