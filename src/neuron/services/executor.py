"""Job execution orchestrator service."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from typing import Any

import structlog

from ..config import Settings
from ..errors import InvalidInputError
from ..models.job import ErrorDetails, JobResult, JobSpec, JobStatus, LeasedJob
from ..models.lease import AttemptRef, RefusedJob
from .job_run import JobRun
from .job_work import JobServices
from .outcomes import Ended, StopReason
from .slots import SlotPool

logger = structlog.get_logger(__name__)

UNLEASED_SECONDS = 15.0
STARTED_AT_ONCE = 16
"""So many of the jobs that came together begin, then whatever else is to be done has its turn."""
MOST_CANCELLED_BEFORE = 64
"""So many attempts are remembered that were to be stopped before they came."""


class ExecutorService:
    """Runs jobs, each in a task of its own, and never more than there are slots.

    Slots are reserved before jobs are asked for: by the poller, or by submit_job() itself. What
    is submitted before start() waits for it.
    """

    def __init__(
        self,
        settings: Settings,
        worker_id: str,
        genome_client: Any,
        engram_client: Any,
        cortex_client: Any,
        *,
        services: JobServices | None = None,
        on_activity: Callable[[], None] = lambda: None,
    ) -> None:
        self.settings = settings
        self.worker_id = worker_id
        self.genome_client = genome_client
        self.engram_client = engram_client
        self.cortex_client = cortex_client
        self.slots = SlotPool(settings.max_concurrent_jobs)
        self.active_jobs: dict[str, JobRun] = {}
        """Jobs with a slot, started or not, and those whose result is on its way."""
        self.total_completed = 0
        self.total_failed = 0
        self._services = services
        self._on_activity = on_activity
        self._tasks: asyncio.TaskGroup | None = None
        self._job_tasks: set[asyncio.Task[None]] = set()
        self._to_start: deque[JobRun] = deque()
        self._waiting: dict[str, LeasedJob] = {}
        self._cancelled_before: deque[AttemptRef] = deque(maxlen=MOST_CANCELLED_BEFORE)
        self._ended = asyncio.Event()
        logger.info(
            "executor_service_initialized", worker_id=worker_id, max_concurrent=self.max_concurrent
        )

    @property
    def max_concurrent(self) -> int:
        """How many jobs may run at once; may be changed at any time."""
        return self.slots.capacity

    @max_concurrent.setter
    def max_concurrent(self, value: int) -> None:
        self.slots.capacity = value

    async def start(self, tasks: asyncio.TaskGroup) -> None:
        """Run jobs in `tasks` from now on."""
        if self._services is None:
            raise RuntimeError("an executor without services cannot run jobs")
        self._tasks = tasks
        for leased in self._waiting.values():
            self._begin(leased)
        self._waiting.clear()
        logger.info("executor_service_started")

    @property
    def running(self) -> bool:
        """Whether start() was called."""
        return self._tasks is not None

    def can_accept_job(self) -> bool:
        """Whether a slot is free."""
        return self.slots.free > 0

    def get_active_job_ids(self) -> list[str]:
        """Ids of the jobs in this worker's hands."""
        return [*self._waiting, *self.active_jobs]

    @property
    def refs(self) -> list[AttemptRef]:
        """The attempts in this worker's hands."""
        return [run.ref for run in self.active_jobs.values()]

    async def submit_job(self, job: JobSpec | LeasedJob) -> None:
        """Take a slot and run a job in it.

        Raises:
            RuntimeError: no slot is free.
        """
        if not self.slots.try_reserve():
            raise RuntimeError(f"Executor at capacity ({self.max_concurrent} jobs)")
        self.submit_reserved(job if isinstance(job, LeasedJob) else _unleased(job))

    def submit_reserved(self, leased: LeasedJob) -> None:
        """Run a job in a slot that was reserved for it."""
        job_id = leased.job.job_id
        if job_id in self.active_jobs:
            # A newer attempt of a job whose older one still winds down here.
            self.active_jobs[job_id].stop(StopReason.STALE)
        if self._tasks is None:
            self._waiting[job_id] = leased
        else:
            self._begin(leased)
        logger.debug(
            "job_submitted", job_id=job_id, active_jobs=len(self._waiting) + len(self.active_jobs)
        )

    def refuse_reserved(self, refused: RefusedJob) -> None:
        """Report a job that cannot be read as failed, and free the slot reserved for it."""
        self.slots.give_back()
        self._start_task(self._report_refused(refused), f"refuse {refused.ref.job_id}")

    def cancel_job(self, ref: AttemptRef) -> None:
        """Stop a job because its submitter wants it; another attempt of it is none of ours.

        One that is not here may be on its way: it is stopped as it comes.
        """
        run = self.active_jobs.get(ref.job_id)
        if run is not None and ref.attempt in (0, run.ref.attempt):
            run.stop(StopReason.CANCELLED)
        elif run is None and ref.attempt:
            self._cancelled_before.append(ref)

    def hand_back_all(self) -> None:
        """Stop every job and give it back to CORTEX."""
        for run in list(self.active_jobs.values()):
            run.stop(StopReason.HANDED_BACK)

    async def wait_for_completion(self) -> None:
        """Return when no job is in this worker's hands; the caller bounds the time."""
        if not self.active_jobs:
            return
        logger.info("waiting_for_job_completion", active_jobs=len(self.active_jobs))
        while self.active_jobs:
            self._ended.clear()
            await self._ended.wait()
        logger.info("all_jobs_completed")

    async def stop(self) -> None:
        """Drop what is left, without a word to CORTEX. May be called twice."""
        self._to_start.clear()
        running = {task for task in self._job_tasks if not task.done()}
        for task in running:
            task.cancel()
        if running:
            await asyncio.wait(running)

    def _start_task(self, work: Coroutine[Any, Any, None], name: str) -> None:
        assert self._tasks is not None, "the executor was not started"
        task = self._tasks.create_task(work, name=name)
        self._job_tasks.add(task)
        task.add_done_callback(self._job_tasks.discard)

    def _begin(self, leased: LeasedJob) -> None:
        assert self._services is not None
        run = JobRun(leased, self._services, self.slots.give_back)
        was_idle = not self.active_jobs
        self.active_jobs[run.ref.job_id] = run
        if not self._to_start:
            asyncio.get_running_loop().call_soon(self._start_some)
        self._to_start.append(run)
        if run.ref in self._cancelled_before:
            run.stop(StopReason.CANCELLED)
        if was_idle:
            self._on_activity()

    def _start_some(self) -> None:
        """Start a few jobs, and in a moment the next: others shall have their turn between."""
        for _ in range(min(STARTED_AT_ONCE, len(self._to_start))):
            run = self._to_start.popleft()
            self._start_task(self._run(run), f"job {run.ref.job_id}")
        if self._to_start:
            asyncio.get_running_loop().call_soon(self._start_some)

    async def _run(self, run: JobRun) -> None:
        try:
            outcome = await run.run()
        finally:
            if self.active_jobs.get(run.ref.job_id) is run:
                del self.active_jobs[run.ref.job_id]
            self._ended.set()
            if not self.active_jobs:
                self._on_activity()
        if isinstance(outcome, Ended):
            if outcome.status is JobStatus.COMPLETED:
                self.total_completed += 1
            else:
                self.total_failed += 1

    async def _report_refused(self, refused: RefusedJob) -> None:
        assert self._services is not None
        logger.error("job_refused", job_id=refused.ref.job_id, error=refused.message)
        self.total_failed += 1
        self._services.metrics.jobs.labels(JobStatus.FAILED.value).inc()
        now = datetime.now(UTC)
        await self._services.results.report(
            JobResult(
                job_id=refused.ref.job_id,
                attempt=refused.ref.attempt,
                status=JobStatus.FAILED,
                error=refused.message,
                error_details=ErrorDetails(
                    code=InvalidInputError.code, retryable=False, attempts=refused.ref.attempt
                ),
                worker_id=self._services.worker_id(),
                started_at=now,
                completed_at=now,
                duration_seconds=0.0,
            )
        )


def _unleased(job: JobSpec) -> LeasedJob:
    return LeasedJob(
        job=job,
        attempt=1,
        lease_seconds=UNLEASED_SECONDS,
        time_left_seconds=job.timeout_seconds,
    )
