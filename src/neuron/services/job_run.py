"""One attempt at one job, from its lease to CORTEX's acknowledgement."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import structlog

from ..errors import (
    ErrorCode,
    JobCancelledError,
    JobTimeoutError,
    ModelTooLargeError,
    NeuronError,
)
from ..models.job import ErrorDetails, JobOutput, JobResult, JobStatus, LeasedJob, Requirements
from ..models.lease import ReleasedJob, ref_of
from ..utils.line_budget import LineBudget
from .drain_plan import TextProgress
from .job_work import JobServices, JobWork
from .lease_keeper import LeaseLoss
from .outcomes import Dropped, Ended, HandedBack, Outcome, StopReason, label_of

logger = structlog.get_logger(__name__)

_completions = LineBudget()

LAST_CHUNKS_SECONDS = 2.0
"""How long a job that is handed back may wait for its last tokens and rows to arrive."""
_REASON_BY_LOSS = {
    LeaseLoss.STALE: StopReason.STALE,
    LeaseLoss.EXPIRED: StopReason.LEASE_EXPIRED,
    LeaseLoss.CANCELLED: StopReason.CANCELLED,
}


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
        self._stop_reason: StopReason | None = None
        self._work = JobWork(leased, services)
        self._working: asyncio.Task[Any] | None = None
        """The task that does the work, while it does."""
        self._interrupted = False
        self._lease = services.leases.hold(leased, self._on_loss)
        if leased.confirmed_at is not None:
            services.leases.confirm(self._lease, leased.confirmed_at)

    @property
    def progress(self) -> TextProgress | None:
        """How far a text job has got; None where that cannot be told."""
        return self._work.progress

    def stop(self, reason: StopReason) -> None:
        """End the attempt now; the first reason counts. Nothing if it has ended."""
        if self._stop_reason is None and self.outcome is None:
            self._stop_reason = reason
            logger.info("job_stopping", job_id=self.ref.job_id, reason=reason.value)
            self._interrupt()

    def _interrupt(self) -> None:
        if self._working is not None:
            self._interrupted = True
            self._working.cancel()

    def _on_loss(self, loss: LeaseLoss) -> None:
        self.stop(_REASON_BY_LOSS[loss])
        # What has ended may still be accepted late, with its last tokens: CORTEX judges those.
        has_ended = self.outcome is not None
        if loss is LeaseLoss.STALE and self._work.stream is not None and not has_ended:
            self._work.stream.close()

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
            if self._work.stream is not None:
                self._work.stream.close()
            self._services.statuses.forget(self.ref)
            self._services.leases.release(self._lease)

    async def _attempt(self) -> Outcome:
        """Do the work; stop() cancels it, and no more than it, as asyncio.timeout() would."""
        if self._stop_reason is not None:
            return self._stopped_outcome()
        task = asyncio.current_task()
        assert task is not None
        cancelled_before = task.cancelling()
        self._working = task
        try:
            outcome = await self._execute()
        except asyncio.CancelledError:
            self._working = None
            if not self._interrupted or task.uncancel() > cancelled_before:
                raise
            return self._stopped_outcome()
        self._working = None
        if self._interrupted:
            task.uncancel()
        return outcome

    def _stopped_outcome(self) -> Outcome:
        match self._stop_reason:
            case StopReason.CANCELLED:
                error = JobCancelledError("the job was cancelled by its submitter")
                return Ended(JobStatus.CANCELLED, self._work.partial("cancelled"), error)
            case StopReason.HANDED_BACK:
                return HandedBack("the worker shuts down")
            case StopReason.LEASE_EXPIRED:
                return HandedBack("the worker could not renew its lease in time")
            case _:
                return Dropped()

    async def _execute(self) -> Outcome:
        job = self.leased.job
        if not self._lease.confirmed.is_set():
            await self._lease.confirmed.wait()
        try:
            async with asyncio.timeout_at(
                self._accepted_at + self.leased.time_left_seconds
            ) as limit:
                output = await self._work.run()
        except TimeoutError as error:
            if not limit.expired():
                return self._internal_error(error)
            message = f"the job took longer than its timeout of {job.timeout_seconds} s"
            return Ended(JobStatus.TIMEOUT, self._work.partial("timeout"), JobTimeoutError(message))
        except JobCancelledError as error:
            return Ended(JobStatus.CANCELLED, error=error)
        except ModelTooLargeError as error:
            return HandedBack(error.message, Requirements(**error.details))
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
                await self._end_stream(outcome)
                await self._services.results.report(self._result(outcome), self._work.stream)
            case HandedBack():
                await self._flush_stream()
                await self._services.results.release(
                    ReleasedJob(self.ref, outcome.reason, needs=outcome.needs), self._work.stream
                )
            case Dropped():
                self._services.results.drop(self.ref)

    async def _end_stream(self, outcome: Ended) -> None:
        """Have every token on its way; the result goes behind the last.

        Of an answer that CORTEX was sent nothing of, only a failed attempt's tokens are needed.
        """
        if outcome.status is JobStatus.FAILED or self._work.is_begun_in_cortex:
            await self._work.send_unsent()
        if self._work.stream is not None:
            self._work.stream.end(outcome.output.metadata if outcome.output else {})

    async def _flush_stream(self) -> None:
        """Have all that there is arrive before the job is handed back: later it would be stale."""
        try:
            async with asyncio.timeout(LAST_CHUNKS_SECONDS):
                await self._work.send_unsent()
                if self._work.stream is not None:
                    await self._work.stream.finish({})
        except TimeoutError:
            logger.warning("last_chunks_not_delivered", job_id=self.ref.job_id)

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
            output=self._complete(outcome.output) if outcome.output else None,
            error=outcome.error.message if outcome.error else None,
            error_details=details,
            worker_id=self._services.worker_id(),
            started_at=self._started_at,
            completed_at=ended_at,
            duration_seconds=self._clock() - self._accepted_at,
        )

    def _complete(self, output: JobOutput) -> JobOutput:
        """Add what the worker knows and the engine does not."""
        load_ms = round(self._work.load_ms, 3)
        return JobOutput(
            result=output.result,
            result_reference=output.result_reference,
            metadata=output.metadata | self._work.digests,
            metrics={"load_ms": load_ms, "queue_ms": 0.0} | output.metrics,
        )

    def _log_outcome(self, outcome: Outcome) -> None:
        seconds = self._clock() - self._accepted_at
        metrics = self._services.metrics
        job_id = self.ref.job_id
        match outcome:
            case Ended(JobStatus.COMPLETED, output, _):
                told = output.metadata if output else {}
                tokens = told.get("tokens_generated", 0) - told.get("resumed_tokens", 0)
                metrics.tokens.inc(tokens)
                if _completions.take():
                    logger.info(
                        "job_completed",
                        job_id=job_id,
                        duration_seconds=round(seconds, 3),
                        tokens_generated=tokens,
                        **_completions.told(),
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
            case HandedBack(reason, _):
                logger.info("job_handed_back", job_id=job_id, reason=reason)
            case Dropped():
                logger.info("job_dropped", job_id=job_id)
        metrics.jobs_ended(label_of(outcome)).inc()
        metrics.job_seconds.observe(seconds)


_DETAIL_NAMES = frozenset({"code", "retryable", "attempts"})
