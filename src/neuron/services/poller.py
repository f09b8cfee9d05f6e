"""Job polling service."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Protocol
from uuid import uuid4

import structlog
from opentelemetry import trace

from ..errors import ConfigurationError, NeuronError, WorkerUnknownError
from ..models.job import LeasedJob
from ..models.lease import AcquiredJobs, AttemptRef, RefusedJob, ReleasedJob, Verdict
from ..models.worker import LoadedModel
from ..utils.concurrency import innermost
from ..utils.line_budget import LineBudget
from ..utils.retry import Backoff
from .identity import Registrar
from .service import Service
from .slots import SlotPool

logger = structlog.get_logger(__name__)
tracer = trace.get_tracer(__name__)

SWEEP_SECONDS = 3.0
MOST_POLLS = 4
LEAST_BESIDE = 8
"""Fewer slots are not asked for while another poll is open."""


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


@dataclass(slots=True)
class _Poll:
    request_id: str
    reserved: int
    is_open: bool = True


class JobPollerService(Service):
    """Long-polls for as many jobs as slots are free, and reserves the slots before it asks.

    While CORTEX looks for some, slots that become free are asked for by a second poll, or a third.

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
        self._polls: dict[str, _Poll] = {}
        """Those that are open, and those whose answer never came."""
        self._poll_ended = asyncio.Event()
        self._backoff = Backoff(initial=0.2, maximum=5.0)
        self._pause = 0.0
        self._lines = LineBudget()
        logger.info("poller_service_initialized", worker_id=worker_id, poll_interval=poll_interval)

    async def stop(self) -> None:
        """Ask for no more jobs; returns when what open polls still brought is handed back."""
        await super().stop()
        await self._sweep()

    async def cancel(self) -> None:
        """Stop without asking what open polls brought: deregistration gives it back."""
        await super().stop()

    async def run(self) -> None:
        """Poll until cancelled.

        Raises:
            ConfigurationError: another process registered under this worker's id; that ends this
                one, because two would take each other's jobs for ever.
        """
        try:
            async with asyncio.TaskGroup() as polls:
                while True:
                    await self._wait_for_turn()
                    reserved = await self.executor_service.slots.reserve_all_free(self._worth)
                    poll = _Poll(self._request_id(reserved), reserved)
                    self._polls[poll.request_id] = poll
                    polls.create_task(self._carry_out(poll), name="poll")
                    await asyncio.sleep(0)  # so that it is on its way
        except BaseExceptionGroup as group:
            raise innermost(group) from None

    async def _wait_for_turn(self) -> None:
        """Wait while no jobs should be asked for, or enough polls are open."""
        if self._outbox is not None:
            await self._outbox.wait_for_room()
        while self._open == MOST_POLLS:
            self._poll_ended.clear()
            await self._poll_ended.wait()
        if self._pause:
            await asyncio.sleep(self._pause)
            self._pause = 0.0

    @property
    def _open(self) -> int:
        return sum(poll.is_open for poll in self._polls.values())

    def _worth(self) -> int:
        """How many slots make a poll worth its while: beside another that is open, some."""
        if not self._open:
            return 1
        return max(LEAST_BESIDE, self.executor_service.slots.capacity // 2)

    def _request_id(self, reserved: int) -> str:
        """The id of a poll whose answer never came, so that its jobs come now; else a new one.

        Not when fewer slots are free than that poll asked for: its jobs might not fit.
        """
        for poll in self._polls.values():
            if not poll.is_open and poll.reserved <= reserved:
                return poll.request_id
        return uuid4().hex

    async def _carry_out(self, poll: _Poll) -> None:
        try:
            await self._ask(poll)
            self._backoff.reset()
        except WorkerUnknownError:
            if self._registrar is not None:
                await self._registrar.register_again()
            self._pause = self._backoff.next_delay()
        except ConfigurationError:
            if self._registrar is not None:
                self._registrar.registered = False  # the id is another process's now
            raise
        except NeuronError as error:
            logger.error("acquire_job_error", error=error.message)
            self._pause = self._backoff.next_delay()
        finally:
            # Nothing is awaited between an answer and its submission: no job falls between.
            poll.is_open = False
            self.executor_service.slots.give_back(poll.reserved)
            self._poll_ended.set()

    async def _ask(self, poll: _Poll) -> None:
        began = asyncio.get_running_loop().time()
        memory_mb, gpu_memory_mb = self._memory()
        with tracer.start_as_current_span("poll_for_job") as span:
            span.set_attribute("worker.id", self.worker_id)
            acquired = await self.cortex_client.acquire_jobs(
                self.worker_id,
                poll.reserved,
                self._wait,
                models=self._models(),
                memory_available_mb=memory_mb,
                gpu_memory_available_mb=gpu_memory_mb,
                request_id=poll.request_id,
            )
        del self._polls[poll.request_id]
        self._submit(acquired)
        if not acquired.refs:
            spare = self.poll_interval - (asyncio.get_running_loop().time() - began)
            await asyncio.sleep(max(0.0, min(spare, self._wait)))

    def _submit(self, acquired: AcquiredJobs) -> None:
        for leased in acquired.jobs:
            if self._lines.take():
                logger.info(
                    "job_acquired",
                    job_id=leased.job.job_id,
                    attempt=leased.attempt,
                    job_type=leased.job.job_type.value,
                    priority=leased.job.priority,
                    model=f"{leased.job.model.family}/{leased.job.model.version}",
                    **self._lines.told(),
                )
            self.executor_service.slots.take_over()
            self.executor_service.submit_reserved(leased)
        for refused in acquired.refused:
            self.executor_service.slots.take_over()
            self.executor_service.refuse_reserved(refused)

    async def _sweep(self) -> None:
        """Ask again for the answers of the polls that were open, and hand back what they leased."""
        polls, self._polls = self._polls, {}
        try:
            async with asyncio.timeout(SWEEP_SECONDS):
                for poll in polls.values():
                    acquired = await self.cortex_client.acquire_jobs(
                        self.worker_id, poll.reserved, 0.0, request_id=poll.request_id
                    )
                    await self._hand_back(acquired)
        except (NeuronError, TimeoutError) as error:
            # Their leases end by themselves; deregistration is sooner still.
            logger.warning("open_poll_not_swept", error=str(error) or type(error).__name__)

    async def _hand_back(self, acquired: AcquiredJobs) -> None:
        if not acquired.refs:
            return
        logger.info("late_jobs_handed_back", count=len(acquired.refs))
        released = [ReleasedJob(ref, "the worker takes no more jobs") for ref in acquired.refs]
        await self.cortex_client.release_jobs(self.worker_id, released)
