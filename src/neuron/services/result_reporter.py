"""Delivering how attempts ended, until CORTEX has acknowledged each."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Generic, Protocol, TypeVar

import structlog

from ..clients.cortex_client import SENDABLE_BYTES, result_size
from ..errors import ErrorCode, InvalidInputError, NeuronError, WorkerUnknownError
from ..models.job import ErrorDetails, JobResult, JobStatus, StreamChunk
from ..models.lease import AttemptRef, ReleasedJob, Verdict
from ..utils.metrics import WorkerMetrics
from ..utils.retry import Backoff
from .big_results import BigResults
from .identity import Registrar
from .service import Service

logger = structlog.get_logger(__name__)

MAX_BATCH = 128

Item = TypeVar("Item")
Verdicts = dict[AttemptRef, Verdict]


class ReportingClient(Protocol):
    """What reporting asks of a CORTEX client."""

    async def report_results(self, worker_id: str, results: list[JobResult]) -> Verdicts: ...

    async def release_jobs(self, worker_id: str, jobs: list[ReleasedJob]) -> Verdicts: ...


class ReportKeeper(Protocol):
    """Who keeps reports over the end of this process."""

    def keep_report(
        self,
        ref: AttemptRef,
        report: JobResult | ReleasedJob,
        unacknowledged: Callable[[], Sequence[StreamChunk]] = tuple,
    ) -> None: ...

    def forget(self, ref: AttemptRef) -> None: ...


class EndedStream(Protocol):
    """The tokens that come before a report."""

    done: asyncio.Event

    def unacknowledged(self) -> list[StreamChunk]: ...


@dataclass(slots=True)
class _Entry(Generic[Item]):
    item: Item
    size: int
    answered: asyncio.Future[Verdict]


class _Queue(Generic[Item]):
    """Items of one kind, sent in batches; a batch that failed is tried again one by one."""

    def __init__(
        self,
        send: Callable[[list[Item]], Awaitable[Verdicts]],
        on_judged: Callable[[AttemptRef], None],
    ) -> None:
        self._send = send
        self._on_judged = on_judged
        self._entries: dict[AttemptRef, _Entry[Item]] = {}
        self._limit = MAX_BATCH

    def __len__(self) -> int:
        return len(self._entries)

    def put(self, ref: AttemptRef, item: Item, size: int) -> asyncio.Future[Verdict]:
        entry = self._entries.get(ref)
        if entry is None:
            entry = self._entries[ref] = _Entry(item, size, _future())
        elif entry.answered.cancelled():
            entry.answered = _future()
        return entry.answered

    async def send_batch(self) -> None:
        batch = self._next_batch()
        if not batch:
            return
        try:
            verdicts = await self._send([entry.item for entry in batch.values()])
        except NeuronError as error:
            if isinstance(error, InvalidInputError) and len(batch) == 1:
                # Sending it again will not help, and its attempt ends with its lease.
                logger.critical("report_refused", refs=list(batch), error=error.message)
                self._settle(batch, {})
                return
            # One bad item must not hold up the others: go on singly, this one last.
            self._limit = 1
            for ref in batch:
                self._entries[ref] = self._entries.pop(ref)
            raise
        self._limit = MAX_BATCH
        self._settle(batch, verdicts)

    def _next_batch(self) -> dict[AttemptRef, _Entry[Item]]:
        batch: dict[AttemptRef, _Entry[Item]] = {}
        size = 0
        for ref, entry in self._entries.items():
            if batch and (len(batch) >= self._limit or size + entry.size > SENDABLE_BYTES):
                break
            batch[ref] = entry
            size += entry.size
        return batch

    def _settle(self, sent: Iterable[AttemptRef], verdicts: Verdicts) -> None:
        for ref in list(sent):
            entry = self._entries.pop(ref)
            self._on_judged(ref)
            if not entry.answered.done():
                entry.answered.set_result(verdicts.get(ref, Verdict.STALE))


class ResultReporter(Service):
    """Keeps results and hand-backs in memory until CORTEX has answered for each of them.

    While CORTEX is down they wait; what waits is bounded by the jobs that ran when it went. The
    outbox is told of each at once, and told to forget it when CORTEX has answered.
    """

    name: ClassVar[str] = "result_reporter"

    def __init__(
        self,
        client: ReportingClient,
        registrar: Registrar,
        metrics: WorkerMetrics | None = None,
        outbox: ReportKeeper | None = None,
        big_results: BigResults | None = None,
    ) -> None:
        super().__init__()
        self._big_results = big_results
        self.storing = 0
        """How many answers are on their way to ENGRAM."""
        self._outbox = outbox
        self._unjudged: set[AttemptRef] = set()
        self._registrar = registrar
        self._work = asyncio.Event()
        self._empty = asyncio.Event()
        self._empty.set()
        self._results: _Queue[JobResult] = _Queue(
            lambda results: client.report_results(registrar.worker_id, results), self.drop
        )
        self._releases: _Queue[ReleasedJob] = _Queue(
            lambda jobs: client.release_jobs(registrar.worker_id, jobs), self.drop
        )
        if metrics is not None:
            metrics.unreported.set_function(lambda: self.backlog)

    @property
    def unjudged_results(self) -> int:
        """How many results CORTEX has not judged, those behind their tokens included."""
        return len(self._unjudged)

    @property
    def backlog(self) -> int:
        """How many results and hand-backs CORTEX has not acknowledged."""
        return len(self._results) + len(self._releases)

    async def report(self, result: JobResult, stream: EndedStream | None = None) -> Verdict:
        """Deliver a result, behind the last chunk of its `stream`; returns when CORTEX has judged.

        A caller that is cancelled leaves what it gave: it is sent, and kept, all the same.
        """
        size = result_size(result)
        if size > self._limit_bytes:
            result = _refused(result, size, self._limit_bytes)
            size = result_size(result)
        ref = AttemptRef(result.job_id, result.attempt)
        self._keep(ref, result, stream)
        self._unjudged.add(ref)
        if stream is not None:
            await stream.done.wait()
        fitting, size = await self._fit(ref, result, size)
        verdict = await self._enqueued(self._results.put(ref, fitting, size))
        self._unjudged.discard(ref)
        return verdict

    @property
    def _limit_bytes(self) -> int:
        return self._big_results.limit_bytes if self._big_results else SENDABLE_BYTES

    async def _fit(self, ref: AttemptRef, result: JobResult, size: int) -> tuple[JobResult, int]:
        """Have a large answer in ENGRAM, and return what then fits into a message."""
        if size <= SENDABLE_BYTES or self._big_results is None or result.output is None:
            return result, size
        self.storing += 1
        try:
            fitting = await self._big_results.put_away(result)
        except NeuronError as error:
            fitting = _failed(result, error.message, error.code, retryable=error.retryable)
        finally:
            self.storing -= 1
        if fitting is None:
            # CORTEX gave the job to another; it is told all the same, and answers that it did.
            message = "the answer could not be stored before the job was taken away"
            fitting = _failed(result, message, ErrorCode.STORAGE_UNAVAILABLE, retryable=True)
        size = result_size(fitting)
        if size > SENDABLE_BYTES:
            fitting = _refused(fitting, size, SENDABLE_BYTES)
            size = result_size(fitting)
        self._keep(ref, fitting, None)
        return fitting, size

    async def release(self, released: ReleasedJob, stream: EndedStream | None = None) -> Verdict:
        """Hand a job back; returns when CORTEX knows. Chunks of its `stream` are kept with it."""
        self._keep(released.ref, released, stream)
        return await self._enqueued(self._releases.put(released.ref, released, 256))

    def drop(self, ref: AttemptRef) -> None:
        """Nothing more will be reported of an attempt: CORTEX has judged it."""
        if self._outbox is not None:
            self._outbox.forget(ref)

    async def flush(self) -> None:
        """Return when nothing waits any more; the caller bounds the time."""
        await self._empty.wait()

    async def run(self) -> None:
        """Send until cancelled."""
        backoff = Backoff(initial=0.1, maximum=3.0)
        while True:
            await self._work.wait()
            try:
                await self.run_once()
            except WorkerUnknownError:
                await self._registrar.register_again()
                await asyncio.sleep(backoff.next_delay())
            except NeuronError as error:
                delay = backoff.next_delay()
                logger.warning(
                    "report_result_error",
                    error=error.message,
                    waiting=self.backlog,
                    retry_in=round(delay, 2),
                )
                await asyncio.sleep(delay)
            else:
                backoff.reset()

    async def run_once(self) -> None:
        """Send one batch of each kind."""
        try:
            await self._results.send_batch()
            await self._releases.send_batch()
        finally:
            self._note_backlog()

    def _keep(
        self, ref: AttemptRef, report: JobResult | ReleasedJob, stream: EndedStream | None
    ) -> None:
        if self._outbox is not None:
            self._outbox.keep_report(ref, report, stream.unacknowledged if stream else tuple)

    async def _enqueued(self, answered: asyncio.Future[Verdict]) -> Verdict:
        self._work.set()
        self._empty.clear()
        return await answered  # whoever is cancelled here leaves the entry where it is

    def _note_backlog(self) -> None:
        if self.backlog:
            self._work.set()
            self._empty.clear()
        else:
            self._work.clear()
            self._empty.set()


def _future() -> asyncio.Future[Verdict]:
    return asyncio.get_running_loop().create_future()


def _refused(result: JobResult, size: int, limit: int) -> JobResult:
    logger.error("result_too_large", job_id=result.job_id, size_bytes=size)
    message = f"the answer takes {size} bytes, and at most {limit} can be delivered"
    return _failed(result, message, ErrorCode.INSUFFICIENT_RESOURCES, retryable=False)


def _failed(result: JobResult, message: str, code: ErrorCode, *, retryable: bool) -> JobResult:
    return result.model_copy(
        update={
            "status": JobStatus.FAILED,
            "output": None,
            "error": message,
            "error_details": ErrorDetails(code=code, retryable=retryable),
        }
    )
