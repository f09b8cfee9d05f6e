"""One attempt at one job, from its lease to CORTEX's acknowledgement."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, aclosing
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Protocol

import structlog

from ..errors import (
    EngineCrashedError,
    ErrorCode,
    JobCancelledError,
    JobTimeoutError,
    NeuronError,
    RuntimeUnavailableError,
)
from ..models.job import ErrorDetails, JobOutput, JobResult, JobStatus, JobType, LeasedJob
from ..models.lease import ReleasedJob, ref_of
from ..models.runtime import RuntimeType
from ..runtimes.base import Generation
from ..runtimes.registry import parse_runtime
from ..utils.metrics import WorkerMetrics
from .engine_pool import Engine, EngineKey, OnProgress
from .lease_keeper import LeaseKeeper, LeaseLoss
from .result_reporter import ResultReporter
from .status_reporter import StatusReporter
from .token_streamer import TokenStream, TokenStreamer

logger = structlog.get_logger(__name__)


class StopReason(StrEnum):
    """Why an attempt ends before its job does."""

    CANCELLED = "cancelled"
    STALE = "stale"
    LEASE_EXPIRED = "lease_expired"
    HANDED_BACK = "handed_back"


_REASON_BY_LOSS = {
    LeaseLoss.STALE: StopReason.STALE,
    LeaseLoss.EXPIRED: StopReason.LEASE_EXPIRED,
    LeaseLoss.CANCELLED: StopReason.CANCELLED,
}


class Engines(Protocol):
    """Who lends engines."""

    def is_warm(self, key: EngineKey) -> bool: ...

    def use(
        self, key: EngineKey, on_progress: OnProgress
    ) -> AbstractAsyncContextManager[Engine]: ...


@dataclass(frozen=True, slots=True)
class JobServices:
    """What every attempt needs of the worker."""

    worker_id: Callable[[], str]
    leases: LeaseKeeper
    engines: Engines
    statuses: StatusReporter
    tokens: TokenStreamer
    results: ResultReporter
    unavailable_runtimes: dict[RuntimeType, str]
    metrics: WorkerMetrics


@dataclass(frozen=True, slots=True)
class Ended:
    """The attempt has a result to report."""

    status: JobStatus
    output: JobOutput | None = None
    error: NeuronError | None = None


@dataclass(frozen=True, slots=True)
class HandedBack:
    """Another attempt shall do it; this one costs no retry."""

    reason: str


@dataclass(frozen=True, slots=True)
class Dropped:
    """The job is not ours any more: nothing to say."""


Outcome = Ended | HandedBack | Dropped


class JobRun:
    """Runs one attempt; its outcome is a value, whatever happened.

    `on_free` is called once, when the attempt needs its slot no more; the result may still be on
    its way to CORTEX then. Cancelling run() drops the attempt without a word to CORTEX.
    """

    def __init__(
        self, leased: LeasedJob, services: JobServices, on_free: Callable[[], None]
    ) -> None:
        self.leased = leased
        self.ref = ref_of(leased)
        self.outcome: Outcome | None = None
        self._services = services
        self._on_free = on_free
        self._clock = asyncio.get_running_loop().time
        self._accepted_at = self._clock()
        self._started_at = datetime.now(UTC)
        self._load_ms = 0.0
        self._stop_reason: StopReason | None = None
        self._stream: TokenStream | None = None
        self._work: asyncio.Task[Outcome] | None = None
        self._lease = services.leases.hold(leased, self._on_loss)

    def stop(self, reason: StopReason) -> None:
        """End the attempt now; the first reason counts. Nothing if it has ended."""
        if self._stop_reason is None and self.outcome is None:
            self._stop_reason = reason
            logger.info("job_stopping", job_id=self.ref.job_id, reason=reason.value)
            if self._work is not None:
                self._work.cancel()

    def _on_loss(self, loss: LeaseLoss) -> None:
        self.stop(_REASON_BY_LOSS[loss])
        if loss is LeaseLoss.STALE and self._stream is not None:
            self._stream.close()

    async def run(self) -> Outcome:
        """Run the attempt and deliver its outcome."""
        try:
            try:
                self.outcome = await self._attempt()
            finally:
                self._on_free()
            self._log_outcome(self.outcome)
            self.outcome = await self._deliver_whatever(self.outcome)
            return self.outcome
        finally:
            if self._stream is not None:
                self._stream.close()
            self._services.statuses.forget(self.ref)
            self._services.leases.release(self._lease)

    async def _attempt(self) -> Outcome:
        async with asyncio.TaskGroup() as group:
            self._work = group.create_task(self._execute(), name=f"work {self.ref.job_id}")
            if self._stop_reason is not None:
                self._work.cancel()
        return self._stopped_outcome() if self._work.cancelled() else self._work.result()

    def _stopped_outcome(self) -> Outcome:
        match self._stop_reason:
            case StopReason.CANCELLED:
                error = JobCancelledError("the job was cancelled by its submitter")
                return Ended(JobStatus.CANCELLED, error=error)
            case StopReason.HANDED_BACK:
                return HandedBack("the worker shuts down")
            case StopReason.LEASE_EXPIRED:
                return HandedBack("the worker could not renew its lease in time")
            case _:
                return Dropped()

    async def _execute(self) -> Outcome:
        job = self.leased.job
        await self._lease.confirmed.wait()
        try:
            async with asyncio.timeout_at(
                self._accepted_at + self.leased.time_left_seconds
            ) as limit:
                output = await self._generate()
        except TimeoutError as error:
            if not limit.expired():
                return self._internal_error(error)
            message = f"the job took longer than its timeout of {job.timeout_seconds} s"
            return Ended(JobStatus.TIMEOUT, error=JobTimeoutError(message))
        except JobCancelledError as error:
            return Ended(JobStatus.CANCELLED, error=error)
        except NeuronError as error:
            return Ended(JobStatus.FAILED, error=error)
        except Exception as error:  # noqa: BLE001 - a job's failure never takes the worker down
            return self._internal_error(error)
        return Ended(JobStatus.COMPLETED, output=output)

    def _internal_error(self, error: Exception) -> Ended:
        logger.error("job_execution_error", job_id=self.ref.job_id, exc_info=error)
        name = type(error).__name__
        return Ended(
            JobStatus.FAILED,
            error=NeuronError(f"the worker failed ({name}: {error})", exception_type=name),
        )

    def _engine_key(self) -> EngineKey:
        job = self.leased.job
        if job.job_type is not JobType.INFERENCE:
            raise RuntimeUnavailableError(f"this worker runs no {job.job_type.value} jobs")
        runtime = parse_runtime(job.model.runtime)
        if reason := self._services.unavailable_runtimes.get(runtime):
            raise RuntimeUnavailableError(reason)
        return EngineKey.of(job.model, runtime)

    async def _generate(self) -> JobOutput:
        job = self.leased.job
        key = self._engine_key()
        waited_from = self._clock()
        if not self._services.engines.is_warm(key):
            self._tell(JobStatus.LOADING_MODEL, "loading the model")
        async with self._services.engines.use(key, self._tell_progress) as engine:
            self._load_ms = 1000 * (self._clock() - waited_from)
            self._tell(JobStatus.EXECUTING)
            logger.info(
                "executing_job",
                job_id=job.job_id,
                model=f"{job.model.family}/{job.model.version}",
                runtime=key.runtime.value,
            )
            async with aclosing(engine.generate(job.input, self.leased.resume)) as generations:
                return await self._follow(generations, stream=job.input.sampling.stream)

    async def _follow(self, generations: AsyncIterator[Generation], *, stream: bool) -> JobOutput:
        async for generation in generations:
            if stream and (generation.text or generation.token_ids):
                await self._stream_on(generation)
            if generation.output is not None:
                return generation.output
        raise EngineCrashedError("the engine ended a generation without an output")

    async def _stream_on(self, generation: Generation) -> None:
        if self._stream is None:
            self._stream = self._services.tokens.open(self.ref)
            self._tell(JobStatus.STREAMING)
        await self._stream.send(generation.text, generation.token_ids)

    def _tell_progress(self, message: str) -> None:
        self._tell(JobStatus.LOADING_MODEL, message)

    def _tell(self, status: JobStatus, message: str = "") -> None:
        self._services.statuses.update(self.ref, status, message)

    async def _deliver_whatever(self, outcome: Outcome) -> Outcome:
        """Deliver the outcome, or the failure that it cannot be said; return which."""
        try:
            await self._deliver(outcome)
        except Exception as error:  # noqa: BLE001 - a job's failure never takes the worker down
            failure = self._internal_error(error)
            await self._services.results.report(self._result(failure))
            return failure
        return outcome

    async def _deliver(self, outcome: Outcome) -> None:
        self._services.statuses.forget(self.ref)
        match outcome:
            case Ended():
                if self._stream is not None:
                    metadata = outcome.output.metadata if outcome.output else {}
                    await self._stream.finish(metadata)
                await self._services.results.report(self._result(outcome))
            case HandedBack():
                await self._services.results.release(ReleasedJob(self.ref, outcome.reason))
            case Dropped():
                pass

    def _result(self, outcome: Ended) -> JobResult:
        details = None
        if outcome.error is not None:
            details = ErrorDetails(
                code=outcome.error.code,
                retryable=outcome.error.retryable,
                attempts=self.leased.attempt,
                **{k: v for k, v in outcome.error.details.items() if k not in _DETAIL_NAMES},
            )
        ended_at = datetime.now(UTC)
        return JobResult(
            job_id=self.ref.job_id,
            attempt=self.ref.attempt,
            status=outcome.status,
            output=self._with_metrics(outcome.output) if outcome.output else None,
            error=outcome.error.message if outcome.error else None,
            error_details=details,
            worker_id=self._services.worker_id(),
            started_at=self._started_at,
            completed_at=ended_at,
            duration_seconds=self._clock() - self._accepted_at,
        )

    def _with_metrics(self, output: JobOutput) -> JobOutput:
        metrics = {"load_ms": round(self._load_ms, 3), "queue_ms": 0.0} | output.metrics
        return output.model_copy(update={"metrics": metrics})

    def _log_outcome(self, outcome: Outcome) -> None:
        seconds = self._clock() - self._accepted_at
        metrics = self._services.metrics
        job_id = self.ref.job_id
        match outcome:
            case Ended(JobStatus.COMPLETED, output, _):
                tokens = output.metadata.get("tokens_generated", 0) if output else 0
                metrics.tokens.inc(tokens)
                logger.info(
                    "job_completed",
                    job_id=job_id,
                    duration_seconds=round(seconds, 3),
                    tokens_generated=tokens,
                )
            case Ended(JobStatus.TIMEOUT, _, _):
                logger.error(
                    "job_timeout", job_id=job_id, timeout_seconds=self.leased.job.timeout_seconds
                )
            case Ended(status, _, error):
                logger.error(
                    "job_ended",
                    job_id=job_id,
                    status=status.value,
                    code=error.code.value if error else ErrorCode.INTERNAL.value,
                    error=error.message if error else "",
                )
            case HandedBack(reason):
                logger.info("job_handed_back", job_id=job_id, reason=reason)
            case Dropped():
                logger.info("job_dropped", job_id=job_id)
        metrics.jobs.labels(label_of(outcome)).inc()
        metrics.job_seconds.observe(seconds)


_DETAIL_NAMES = frozenset({"code", "retryable", "attempts"})


def label_of(outcome: Outcome) -> str:
    """Return the metric label of an outcome."""
    match outcome:
        case Ended():
            return outcome.status.value
        case HandedBack():
            return "released"
        case Dropped():
            return "stale"
