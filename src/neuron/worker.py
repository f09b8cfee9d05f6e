"""The worker: its life from START to STOPPED, and its command."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from typing import Any, NoReturn

import structlog
from pydantic import ValidationError

from mnemos import systemd

from .config import ChangeableSettings, Settings, describe_validation_error, load_settings
from .errors import ConfigurationError, NeuronError
from .models.action import Action
from .models.worker import WorkerAction, WorkerStatus
from .services.assembly import WorkerParts, assemble
from .services.draining import Drain
from .services.engine import EngineFactory
from .services.lifecycle import WorkerPhase
from .services.memory_budget import MemoryBudget
from .services.self_view import WorkerSelfView
from .utils.collector import calm_collector
from .utils.concurrency import until_first
from .utils.logging import configure_logging, set_log_level
from .utils.metrics import WorkerMetrics
from .utils.tracing import configure_tracing

logger = structlog.get_logger(__name__)

EXIT_CLEAN = 0
EXIT_RESTART = 75
EXIT_CONFIGURATION = 78
FLUSH_SECONDS = 10.0
KEEP_SECONDS = 5.0
"""How long a disk may take to keep what CORTEX did not take."""
HASTY_FLUSH_SECONDS = 3.0
DEREGISTER_SECONDS = 3.0


class NEURONWorker:
    """Turns this machine into a node of the fleet, from start() to the end of shutdown().

    One event loop, one life: start() may be called once. Cancelling start() stops at once and
    leaves the jobs to their leases; shutdown() is the kind way.
    """

    def __init__(self, settings: Settings, *, engine_factory: EngineFactory | None = None) -> None:
        self.settings = settings
        self.view = WorkerSelfView(settings, WorkerMetrics())
        """How the worker looks from outside; the API shows it."""
        self.ready = asyncio.Event()
        """Set once the worker is registered and takes jobs."""
        self.exit_code = EXIT_CLEAN
        self._engine_factory = engine_factory
        self._parts: WorkerParts | None = None
        self._api: Any = None
        self._tasks: asyncio.TaskGroup | None = None
        self._polling = asyncio.Lock()
        self._stop_requested = asyncio.Event()
        self._stop_now = asyncio.Event()
        self._stopped = asyncio.Event()
        self._drain: Drain | None = None

    @property
    def worker_id(self) -> str | None:
        """The id that CORTEX gave; None before the first registration."""
        return self.view.worker_id

    @property
    def status(self) -> WorkerStatus:
        """What CORTEX is told."""
        return self.view.status

    @property
    def phase(self) -> WorkerPhase:
        """Where the worker is in its life."""
        return self.view.lifecycle.phase

    @property
    def api_port(self) -> int:
        """The port that the API is served on."""
        return self._api.port if self._api else self.settings.api_port

    # ------------------------------------------------------------ its life

    async def start(self) -> None:
        """Live until shutdown() is asked for, by whomever; returns in STOPPED.

        Raises:
            ConfigurationError: these settings cannot work here.
        """
        self.view.lifecycle.enter(WorkerPhase.INITIALIZING)
        try:
            await self._serve()
        except* ConfigurationError as group:
            raise _innermost(group) from None
        finally:
            self.view.lifecycle.enter(WorkerPhase.STOPPED)
            self._stopped.set()
            logger.info("worker_stopped", reason=self.view.stop_reason)

    async def shutdown(self, reason: str = "asked for") -> None:
        """Drain, and return when the worker has stopped."""
        self.request_stop(reason)
        await self._stopped.wait()

    def request_stop(self, reason: str, *, deadline_seconds: float | None = None) -> None:
        """Begin to drain: running jobs may take shutdown_timeout, or `deadline_seconds`.

        A drain that has begun can only be made shorter, by a deadline.
        """
        if self._drain is not None:
            if deadline_seconds is not None and self._drain.shorten(deadline_seconds):
                logger.info("shutdown_hastened", reason=reason, jobs_may_take=deadline_seconds)
            return
        self.view.stop_reason = reason
        seconds = self.settings.shutdown_timeout if deadline_seconds is None else deadline_seconds
        self._drain = Drain(seconds)
        logger.info("shutdown_requested", reason=reason, jobs_may_take=seconds)
        self._stop_requested.set()

    def request_stop_now(self, reason: str) -> None:
        """Hand every job back and stop: a drain that takes no time."""
        self.request_stop(reason)
        self._stop_now.set()

    def on_signal(self, number: signal.Signals) -> None:
        """The first signal drains; the second hands everything back at once."""
        if self._stop_requested.is_set():
            self.request_stop_now(f"a second {number.name}")
        else:
            self.request_stop(number.name)

    async def _serve(self) -> None:
        from .api.server import ApiServer
        from .main import create_app

        self._api = ApiServer(create_app(self.view), self.settings.api_host, self.settings.api_port)
        self._api.bind()
        parts = self._parts = self.view.parts = assemble(
            self.settings,
            self.view.metrics,
            self,
            self.view.report,
            self._on_activity,
            self._capabilities_changed,
            self._engine_factory,
        )
        try:
            async with asyncio.TaskGroup() as tasks:
                self._tasks = tasks
                await self._api.start(tasks)
                try:
                    await self._live(parts, tasks)
                finally:
                    await self._stop_everything(parts)
        finally:
            await self._api.stop()
            await parts.genome.close()
            await parts.cortex.close()

    async def _live(self, parts: WorkerParts, tasks: asyncio.TaskGroup) -> None:
        await until_first(self._begin(parts, tasks), self._stop_requested.wait())
        if self.view.lifecycle.phase is WorkerPhase.STARTING:
            self.view.lifecycle.enter(WorkerPhase.IDLE)
            self._on_activity()
            self.ready.set()
            parts.heartbeat.poke()
            systemd.ready()
            logger.info("worker_ready", worker_id=self.worker_id, api_port=self.api_port)
            await self._stop_requested.wait()
        await self._leave(parts)

    async def _begin(self, parts: WorkerParts, tasks: asyncio.TaskGroup) -> None:
        await asyncio.to_thread(parts.loader.cache.remove_strays)
        await parts.loader.note_usage()
        await parts.monitor.start()
        self.view.lifecycle.enter(WorkerPhase.CONNECTING)
        await parts.cortex.connect()
        await parts.neighbours.start(tasks)
        await self._deliver_leftovers(parts, tasks)
        self.view.lifecycle.enter(WorkerPhase.REGISTERING)
        await parts.registrar.register()
        for service in (parts.work_stream, parts.leases, parts.statuses):
            await service.start(tasks)
        budget = MemoryBudget.of(
            await parts.monitor.get_current_resources(), self.settings.engine_memory_mb
        )
        await parts.engines.start(tasks, budget)
        for watch in (parts.health, parts.guard, parts.pinned, *parts.notices):
            await watch.start(tasks)
        if self.settings.prefetch:
            for ahead in (parts.prefetcher, parts.disk_models):
                await ahead.start(tasks)
        await parts.executor.start(tasks)
        await parts.heartbeat.start(tasks)
        await parts.listener.start(tasks)
        await parts.work_stream.wait_tried()
        self.view.lifecycle.enter(WorkerPhase.STARTING)
        await self._follow_pause(parts, tasks)

    async def _deliver_leftovers(self, parts: WorkerParts, tasks: asyncio.TaskGroup) -> None:
        """Deliver what an earlier process left, under its id, before that is registered anew."""
        found = await parts.outbox.open()
        parts.registrar.worker_id = parts.registrar.worker_id or found.worker_id
        for service in (parts.outbox, parts.results, parts.tokens):
            await service.start(tasks)
        await parts.leftovers.deliver(found, tasks)

    async def _leave(self, parts: WorkerParts) -> None:
        """No new jobs; those running finish or go back; their results arrive."""
        self.view.lifecycle.enter(WorkerPhase.SHUTTING_DOWN)
        systemd.stopping()
        if not parts.executor.running:
            return
        parts.heartbeat.poke()
        async with self._polling:
            await parts.poller.stop()
        await self._finish_jobs(parts)
        parts.executor.hand_back_all()
        hasty = self._stop_now.is_set()
        try:
            async with asyncio.timeout(HASTY_FLUSH_SECONDS if hasty else FLUSH_SECONDS):
                await parts.executor.wait_for_completion()
                await parts.results.flush()
        except TimeoutError:
            logger.error("results_not_delivered", waiting=parts.results.backlog)

    async def _finish_jobs(self, parts: WorkerParts) -> None:
        assert self._drain is not None
        await until_first(
            parts.executor.wait_for_completion(),
            self._stop_now.wait(),
            self._drain.hand_back_late(parts.executor.active_jobs.values),
        )

    async def _stop_everything(self, parts: WorkerParts) -> None:
        """End every loop and engine, whatever state they are in, and say goodbye to CORTEX."""
        await parts.poller.cancel()
        await self._keep_undelivered(parts)
        await parts.executor.stop()
        await parts.leftovers.stop()
        for ahead in (parts.prefetcher, parts.disk_models):
            await ahead.stop()
        for watch in (*parts.notices, parts.pinned, parts.health, parts.guard):
            await watch.stop()
        for service in (parts.tokens, parts.statuses, parts.results, parts.leases):
            await service.stop()
        await parts.work_stream.stop()
        await parts.heartbeat.stop()
        await parts.neighbours.stop()
        parts.listener.expect_goodbye()
        await self._deregister(parts)
        await parts.listener.stop()  # not before the goodbye, or CORTEX would suspect a crash
        await self._close_outbox(parts)
        await parts.engines.stop()
        await parts.monitor.stop()
        await self._api.stop()

    async def _keep_undelivered(self, parts: WorkerParts) -> None:
        """Have on disk what CORTEX has not taken, while its tokens are still in memory."""
        try:
            async with asyncio.timeout(KEEP_SECONDS):
                await parts.outbox.write()
        except TimeoutError:
            logger.error("outbox_not_written", waiting=parts.results.backlog)

    async def _close_outbox(self, parts: WorkerParts) -> None:
        try:
            async with asyncio.timeout(KEEP_SECONDS):
                await parts.outbox.stop()
                await parts.outbox.close()
        except TimeoutError:
            logger.error("outbox_not_closed")

    async def _deregister(self, parts: WorkerParts) -> None:
        """Say goodbye, unless results wait: their attempts would be given away with it."""
        if not parts.registrar.registered:
            return
        if parts.results.unjudged_results:
            logger.warning("not_deregistered", unjudged_results=parts.results.unjudged_results)
            return
        try:
            async with asyncio.timeout(DEREGISTER_SECONDS):
                await parts.cortex.deregister_worker(
                    parts.registrar.worker_id, self.view.stop_reason
                )
            parts.outbox.name_worker("")
        except (NeuronError, TimeoutError) as error:
            logger.warning("deregistration_failed", error=str(error) or type(error).__name__)

    # ------------------------------------------------------------ what CORTEX asks

    def handle(self, action: Action) -> None:
        """Carry out an action of CORTEX; returns at once."""
        parts = self._parts
        assert parts is not None
        reason = action.reason or f"CORTEX asked for {action.kind.value}"
        match action.kind:
            case WorkerAction.SHUTDOWN | WorkerAction.DRAIN:
                logger.info("shutdown_requested_by_cortex", reason=action.reason)
                self.request_stop(reason, deadline_seconds=action.deadline_seconds)
            case WorkerAction.RESTART:
                logger.info("restart_requested_by_cortex", reason=action.reason)
                self.exit_code = EXIT_RESTART
                self.request_stop(reason, deadline_seconds=action.deadline_seconds)
            case WorkerAction.PAUSE:
                logger.info("pause_requested_by_cortex", reason=action.reason)
                self._set_paused(paused=True)
            case WorkerAction.RESUME:
                logger.info("resume_requested_by_cortex", reason=action.reason)
                self._set_paused(paused=False)
            case WorkerAction.UPDATE_CONFIG:
                self._update_config(parts, action.config)
            case WorkerAction.CANCEL_JOBS:
                for ref in action.jobs:
                    parts.executor.cancel_job(ref)
        parts.heartbeat.poke()

    async def _capabilities_changed(self) -> None:
        """A runtime was taken out of what is offered, or is offered again: CORTEX shall know."""
        parts, tasks = self._parts, self._tasks
        assert parts is not None
        assert tasks is not None
        await parts.registrar.register_again()
        await self._follow_pause(parts, tasks)
        parts.heartbeat.poke()

    def _set_paused(self, *, paused: bool) -> None:
        self.view.paused = paused
        if self._tasks is not None and self._parts is not None:
            self._tasks.create_task(self._follow_pause(self._parts, self._tasks))

    async def _follow_pause(self, parts: WorkerParts, tasks: asyncio.TaskGroup) -> None:
        """Poll while it makes sense: not paused, not draining, and with something to offer."""
        async with self._polling:
            wanted = not self.view.paused and parts.offers_a_runtime
            if self._stop_requested.is_set() or not wanted:
                await parts.poller.stop()
            elif not parts.poller.running:
                await parts.poller.start(tasks)

    def _update_config(self, parts: WorkerParts, config: dict[str, Any]) -> None:
        try:
            wanted = ChangeableSettings.model_validate(config)
        except ValidationError as error:
            self.view.config_error = (
                f"update_config was refused: {describe_validation_error(error)}"
            )
            logger.error("config_update_refused", error=self.view.config_error)
            return
        self.view.config_error = ""
        if wanted.log_level is not None:
            set_log_level(wanted.log_level)
        if wanted.heartbeat_interval is not None:
            parts.heartbeat.interval_seconds = wanted.heartbeat_interval
        if wanted.max_concurrent_jobs is not None:
            parts.executor.max_concurrent = wanted.max_concurrent_jobs
            if self._tasks is not None:
                self._tasks.create_task(parts.registrar.register_again())
        logger.info("config_updated", **wanted.model_dump(exclude_none=True))

    def _on_activity(self) -> None:
        if self.view.note_activity() and self._parts is not None:
            self._parts.heartbeat.poke()


def _innermost(group: BaseExceptionGroup[ConfigurationError]) -> ConfigurationError:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, ConfigurationError)
    return error


async def _run(settings: Settings) -> int:
    worker = NEURONWorker(settings)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, worker.on_signal, number)
    await worker.start()
    return worker.exit_code


def run_worker() -> int:
    """Run a worker from NEURON_* variables; return the exit status."""
    try:
        settings = load_settings()
        configure_logging(settings.log_level, settings.log_format)
        configure_tracing(settings.otlp_endpoint, settings.version)
        calm_collector()
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            return runner.run(_run(settings))
    except ConfigurationError as error:
        sys.stderr.write(f"neuron: {error.message}\n")
        return EXIT_CONFIGURATION


def _loop_factory() -> Any:
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


def main() -> NoReturn:
    """The `neuron` command: 0 after a drain, 78 for settings that cannot work.

    A restart that CORTEX asked for replaces this process by a new one; where that is not
    possible the status is 75, for a supervisor to act on.
    """
    status = run_worker()
    if status == EXIT_RESTART:
        try:
            os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # noqa: S606 - itself
        except OSError as error:
            sys.stderr.write(f"neuron: cannot start again: {error}\n")
    sys.exit(status)


if __name__ == "__main__":
    main()
