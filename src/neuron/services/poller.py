"""Job polling service."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import ClassVar, Protocol
from uuid import uuid4

import structlog
from opentelemetry import trace

from ..errors import ConfigurationError, NeuronError, WorkerUnknownError
from ..models.job import LeasedJob
from ..models.lease import AcquiredJobs, AttemptRef, RefusedJob, ReleasedJob, Verdict
from ..models.worker import LoadedModel
from ..utils.retry import Backoff
from .identity import Registrar
from .service import Service
from .slots import SlotPool

logger = structlog.get_logger(__name__)
tracer = trace.get_tracer(__name__)

SWEEP_SECONDS = 3.0


class AcquiringClient(Protocol):
    """What polling asks of a CORTEX client."""

    async def acquire_jobs(
        self,
        worker_id: str,
        max_jobs: int,
        wait_seconds: float,
        *,
        models: list[LoadedModel] | None = None,
        memory_available_mb: int = 0,
        gpu_memory_available_mb: int = 0,
        request_id: str = "",
    ) -> AcquiredJobs: ...

    async def release_jobs(
        self, worker_id: str, jobs: list[ReleasedJob]
    ) -> dict[AttemptRef, Verdict]: ...


class ReservingExecutor(Protocol):
    """What polling asks of the executor."""

    slots: SlotPool

    def submit_reserved(self, leased: LeasedJob) -> None: ...

    def refuse_reserved(self, refused: RefusedJob) -> None: ...


class Room(Protocol):
    """Where results go that CORTEX does not take; while it is full no jobs are taken either."""

    async def wait_for_room(self) -> None: ...


class JobPollerService(Service):
    """Long-polls for as many jobs as slots are free, and reserves the slots before it asks.

    `poll_interval` is the least time in seconds between two polls that brought nothing, in case
    CORTEX answers at once. `memory` tells how many MB of RAM and of GPU memory a model could get
    by evicting idle ones. stop() hands back what an open poll brings in after it, and start() may
    follow.
    """

    name: ClassVar[str] = "poller_service"

    def __init__(
        self,
        worker_id: str,
        cortex_client: AcquiringClient,
        executor_service: ReservingExecutor,
        poll_interval: float = 1.0,
        *,
        wait_seconds: float = 20.0,
        registrar: Registrar | None = None,
        models: Callable[[], list[LoadedModel]] = list,
        memory: Callable[[], tuple[int, int]] = lambda: (0, 0),
        outbox: Room | None = None,
    ) -> None:
        super().__init__()
        self.worker_id = worker_id
        self.cortex_client = cortex_client
        self.executor_service = executor_service
        self.poll_interval = poll_interval
        self._wait = wait_seconds
        self._registrar = registrar
        self._models = models
        self._memory = memory
        self._outbox = outbox
        self._open_request: tuple[str, int] | None = None
        logger.info("poller_service_initialized", worker_id=worker_id, poll_interval=poll_interval)

    async def stop(self) -> None:
        """Ask for no more jobs; returns when what an open poll still brought is handed back."""
        await super().stop()
        await self._sweep()

    async def cancel(self) -> None:
        """Stop without asking what an open poll brought: deregistration gives it back."""
        await super().stop()

    async def run(self) -> None:
        """Poll until cancelled.

        Raises:
            ConfigurationError: another process registered under this worker's id; that ends this
                one, because two would take each other's jobs for ever.
        """
        backoff = Backoff(initial=0.2, maximum=5.0)
        while True:
            if self._outbox is not None:
                await self._outbox.wait_for_room()
            reserved = await self.executor_service.slots.reserve_all_free()
            try:
                acquired = await self._poll(reserved)
                backoff.reset()
            except WorkerUnknownError:
                acquired = None
                if self._registrar is not None:
                    await self._registrar.register_again()
            except ConfigurationError:
                if self._registrar is not None:
                    self._registrar.registered = False  # the id is another process's now
                raise
            except NeuronError as error:
                acquired = None
                logger.error("acquire_job_error", error=error.message)
            finally:
                # Nothing is awaited between an answer and its submission: no job falls between.
                self.executor_service.slots.give_back(reserved)
            await asyncio.sleep(0)  # what came asks for its leases first
            if acquired is None:
                await asyncio.sleep(backoff.next_delay())

    async def _poll(self, reserved: int) -> AcquiredJobs:
        began = asyncio.get_running_loop().time()
        request_id = self._request_id(reserved)
        self._open_request = (request_id, reserved)
        memory_mb, gpu_memory_mb = self._memory()
        with tracer.start_as_current_span("poll_for_job") as span:
            span.set_attribute("worker.id", self.worker_id)
            acquired = await self.cortex_client.acquire_jobs(
                self.worker_id,
                reserved,
                self._wait,
                models=self._models(),
                memory_available_mb=memory_mb,
                gpu_memory_available_mb=gpu_memory_mb,
                request_id=request_id,
            )
        self._open_request = None
        self._submit(acquired)
        if not acquired.refs:
            spare = self.poll_interval - (asyncio.get_running_loop().time() - began)
            await asyncio.sleep(max(0.0, min(spare, self._wait)))
        return acquired

    def _request_id(self, reserved: int) -> str:
        """The id of the poll whose answer never came, so that its jobs come now; else a new one.

        Not when fewer slots are free than that poll asked for: its jobs might not fit.
        """
        if self._open_request is not None and self._open_request[1] <= reserved:
            return self._open_request[0]
        return uuid4().hex

    def _submit(self, acquired: AcquiredJobs) -> None:
        for leased in acquired.jobs:
            logger.info(
                "job_acquired",
                job_id=leased.job.job_id,
                attempt=leased.attempt,
                job_type=leased.job.job_type.value,
                priority=leased.job.priority,
                model=f"{leased.job.model.family}/{leased.job.model.version}",
            )
            self.executor_service.slots.take_over()
            self.executor_service.submit_reserved(leased)
        for refused in acquired.refused:
            self.executor_service.slots.take_over()
            self.executor_service.refuse_reserved(refused)

    async def _sweep(self) -> None:
        """Ask again for the answer of the poll that was open, and hand back what it leased."""
        if self._open_request is None:
            return
        request_id, reserved = self._open_request
        try:
            async with asyncio.timeout(SWEEP_SECONDS):
                acquired = await self.cortex_client.acquire_jobs(
                    self.worker_id, reserved, 0.0, request_id=request_id
                )
                await self._hand_back(acquired)
        except (NeuronError, TimeoutError) as error:
            # Their leases end by themselves; deregistration is sooner still.
            logger.warning("open_poll_not_swept", error=str(error) or type(error).__name__)
        self._open_request = None

    async def _hand_back(self, acquired: AcquiredJobs) -> None:
        if not acquired.refs:
            return
        logger.info("late_jobs_handed_back", count=len(acquired.refs))
        released = [ReleasedJob(ref, "the worker takes no more jobs") for ref in acquired.refs]
        await self.cortex_client.release_jobs(self.worker_id, released)
