"""Worker heartbeat service."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import ClassVar, Protocol

import structlog
from opentelemetry import trace
from opentelemetry.trace import Status, StatusCode

from ..errors import ConfigurationError, NeuronError, WorkerUnknownError
from ..models.action import Action, HeartbeatAnswer
from ..models.lease import AttemptRef
from ..models.worker import (
    CachedModel,
    Heartbeat,
    LoadedModel,
    ModelHint,
    SystemResources,
    WorkerStatus,
)
from ..utils.metrics import WorkerMetrics
from ..utils.retry import Backoff
from .service import Service, sleep_or_event

logger = structlog.get_logger(__name__)
tracer = trace.get_tracer(__name__)

LEAST_GAP_SECONDS = 1.0
"""Between two heartbeats, however much changes."""


class HeartbeatClient(Protocol):
    """What heartbeats ask of a CORTEX client."""

    async def send_heartbeat(
        self,
        heartbeat: Heartbeat,
        *,
        attempts: list[AttemptRef] | None = None,
        acknowledged_action_ids: list[str] | None = None,
        total_completed: int = 0,
        total_failed: int = 0,
    ) -> HeartbeatAnswer: ...


class ResourceSource(Protocol):
    """Where the heartbeat's figures come from."""

    async def get_current_resources(self) -> SystemResources: ...


class JobSource(Protocol):
    """Who knows which jobs run."""

    def get_active_job_ids(self) -> list[str]: ...


@dataclass(slots=True)
class WorkerReport:
    """What a heartbeat says beyond jobs and resources."""

    status: WorkerStatus = WorkerStatus.IDLE
    status_reason: str = ""
    models: list[LoadedModel] = field(default_factory=list)
    attempts: list[AttemptRef] = field(default_factory=list)
    acknowledged_action_ids: list[str] = field(default_factory=list)
    total_completed: int = 0
    total_failed: int = 0
    cached_models: list[CachedModel] = field(default_factory=list)
    wants_hints: bool = False


class HeartbeatService(Service):
    """Says every `interval_seconds` how the worker is, and passes on what CORTEX answers.

    `describe` fills in the worker's own state; `on_answer` gets the actions, and which of them
    CORTEX now knows to be done, `on_hints` the models to fetch ahead, none unless they were
    asked for; `on_unknown` registers again; `on_success` is called after each that arrived.
    """

    name: ClassVar[str] = "heartbeat_service"

    def __init__(
        self,
        worker_id: str,
        cortex_client: HeartbeatClient,
        resource_monitor: ResourceSource,
        executor_service: JobSource,
        interval_seconds: float = 30,
        *,
        describe: Callable[[], WorkerReport] | None = None,
        on_answer: Callable[[list[Action], list[str]], None] | None = None,
        on_hints: Callable[[list[ModelHint]], None] | None = None,
        on_unknown: Callable[[], Awaitable[None]] | None = None,
        on_success: Callable[[], None] | None = None,
        metrics: WorkerMetrics | None = None,
    ) -> None:
        super().__init__()
        self.worker_id = worker_id
        self.cortex_client = cortex_client
        self.resource_monitor = resource_monitor
        self.executor_service = executor_service
        self.interval_seconds = interval_seconds
        self.consecutive_failures = 0
        self.max_failures = 5
        self._describe = describe
        self._on_answer = on_answer
        self._on_hints = on_hints
        self._on_unknown = on_unknown
        self._on_success = on_success
        self._metrics = metrics
        self._poke = asyncio.Event()
        logger.info("heartbeat_service_initialized", worker_id=worker_id, interval=interval_seconds)

    def poke(self) -> None:
        """Send the next heartbeat soon: something worth telling has changed."""
        self._poke.set()

    async def run(self) -> None:
        """Send until cancelled; after a failure sooner than the interval, with backoff.

        Raises:
            ConfigurationError: another process registered under this worker's id.
        """
        backoff = Backoff(initial=0.5, maximum=max(0.5, self.interval_seconds))
        while True:
            try:
                await self.run_once()
            except WorkerUnknownError:
                if self._on_unknown is not None:
                    await self._on_unknown()
                await asyncio.sleep(backoff.next_delay())
            except ConfigurationError:
                raise
            except NeuronError as error:
                self._note_failure(error)
                await asyncio.sleep(min(backoff.next_delay(), self.interval_seconds))
            else:
                self.consecutive_failures = 0
                backoff.reset()
                if self._on_success is not None:
                    self._on_success()
                gap = min(LEAST_GAP_SECONDS, self.interval_seconds)
                await asyncio.sleep(gap)
                await sleep_or_event(self._poke, self.interval_seconds - gap)

    async def run_once(self) -> None:
        """Send a single heartbeat and pass its answer on."""
        with tracer.start_as_current_span("send_heartbeat") as span:
            span.set_attribute("worker.id", self.worker_id)
            resources = await self.resource_monitor.get_current_resources()
            report = self._describe() if self._describe else self._plain_report()
            heartbeat = Heartbeat(
                worker_id=self.worker_id,
                status=report.status,
                current_jobs=self.executor_service.get_active_job_ids(),
                resources=resources,
                timestamp=datetime.now(UTC),
                models=report.models,
                status_reason=report.status_reason,
                cached_models=report.cached_models,
                wants_hints=report.wants_hints,
            )
            answer = await self.cortex_client.send_heartbeat(
                heartbeat,
                attempts=report.attempts,
                acknowledged_action_ids=report.acknowledged_action_ids,
                total_completed=report.total_completed,
                total_failed=report.total_failed,
            )
            if self._on_answer is not None:
                self._on_answer(answer.actions, report.acknowledged_action_ids)
            if self._on_hints is not None:
                self._on_hints(answer.prefetch)
            self._log_sent(heartbeat)
            span.set_status(Status(StatusCode.OK))

    def _plain_report(self) -> WorkerReport:
        busy = bool(self.executor_service.get_active_job_ids())
        return WorkerReport(status=WorkerStatus.BUSY if busy else WorkerStatus.IDLE)

    def _log_sent(self, heartbeat: Heartbeat) -> None:
        logger.debug(
            "heartbeat_sent",
            worker_id=self.worker_id,
            status=heartbeat.status.value,
            active_jobs=len(heartbeat.current_jobs),
            cpu_percent=heartbeat.resources.cpu_percent,
            memory_percent=round(heartbeat.resources.memory_percent, 1),
        )

    def _note_failure(self, error: NeuronError) -> None:
        self.consecutive_failures += 1
        if self._metrics is not None:
            self._metrics.heartbeat_failures.inc()
        logger.error(
            "heartbeat_error",
            error=error.message,
            consecutive_failures=self.consecutive_failures,
        )
        if self.consecutive_failures == self.max_failures:
            logger.critical("heartbeat_max_failures_exceeded", max_failures=self.max_failures)
