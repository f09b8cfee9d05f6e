"""Wiring: every part of a worker, made in one place."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import structlog

from mnemos import systemd

from ..clients.cortex_client import CortexClient
from ..clients.cortex_security import CortexSecurity
from ..clients.engram_client import EngramClient
from ..clients.genome_client import GenomeClient
from ..config import Settings
from ..models.runtime import RuntimeType
from ..models.worker import WorkerCapabilities, WorkerInfo, WorkerRegistration
from ..runtimes.base import EngineSettings
from ..runtimes.engine_client import EngineClient, EngineLogLine
from ..runtimes.in_process import InProcessEngine
from ..runtimes.registry import IN_PROCESS, runtime_availability, runtime_class
from ..utils.metrics import WorkerMetrics
from .action_listener import ActionHandler, ActionInbox, ActionListener
from .big_results import BigResults
from .disk_models import DiskModels
from .engine import Engine, EngineFactory
from .engine_pool import EnginePool
from .executor import ExecutorService
from .heartbeat import HeartbeatService, WorkerReport
from .identity import Registrar
from .input_references import InputReferences
from .job_work import JobServices
from .lease_keeper import LeaseKeeper
from .memory_guard import MemoryGuard
from .model_files import ModelFiles
from .model_loader import ModelLoaderService
from .neighbour_watch import NeighbourWatch
from .outbox.leftovers import Leftovers
from .outbox.outbox import Outbox
from .pinned_models import PinnedModels
from .poller import JobPollerService
from .prefetch import Prefetcher
from .resource_monitor import ResourceMonitor
from .result_reporter import ResultReporter
from .runtime_health import RuntimeHealth
from .spot_notice import SOURCES, LeavingHandler, SpotNoticeService
from .status_reporter import StatusReporter
from .token_streamer import TokenStreamer
from .work_stream import WorkStreamService

logger = structlog.get_logger(__name__)

_INITIALIZED = {runtime: f"{runtime.value}_runtime_initialized" for runtime in RuntimeType}


class WorkerHandler(ActionHandler, LeavingHandler, Protocol):
    """Who carries out what CORTEX and the provider ask."""


@dataclass(frozen=True, slots=True)
class WorkerParts:
    """What a worker is made of, from the clients up."""

    settings: Settings
    metrics: WorkerMetrics
    unavailable: dict[RuntimeType, str]
    cortex: CortexClient
    work_stream: WorkStreamService
    genome: GenomeClient
    engram: EngramClient
    monitor: ResourceMonitor
    neighbours: NeighbourWatch
    registrar: Registrar
    leases: LeaseKeeper
    loader: ModelLoaderService
    prefetcher: Prefetcher
    disk_models: DiskModels
    engines: EnginePool
    health: RuntimeHealth
    guard: MemoryGuard
    pinned: PinnedModels
    statuses: StatusReporter
    tokens: TokenStreamer
    results: ResultReporter
    outbox: Outbox
    leftovers: Leftovers
    executor: ExecutorService
    poller: JobPollerService
    inbox: ActionInbox
    heartbeat: HeartbeatService
    notices: tuple[SpotNoticeService, ...]
    """One, where the operator asked to be told of spot notices."""
    listener: ActionListener

    @property
    def offers_a_runtime(self) -> bool:
        """Whether any runtime that the operator asked for can run here."""
        return any(r not in self.unavailable for r in self.settings.supported_runtimes)

    def capabilities(self) -> WorkerCapabilities:
        """Return what this worker can run, now."""
        return capabilities_of(
            self.settings,
            self.unavailable,
            self.executor.max_concurrent,
            gpu=bool(self.monitor.gpu_devices),
        )


def assemble(
    settings: Settings,
    metrics: WorkerMetrics,
    handler: WorkerHandler,
    describe: Callable[[], WorkerReport],
    on_activity: Callable[[], None],
    on_capabilities: Callable[[], Awaitable[None]],
    engine_factory: EngineFactory | None = None,
) -> WorkerParts:
    """Make every part, connected to nothing yet. Needs a running event loop."""
    unavailable = find_unavailable(settings)
    cortex = CortexClient(
        settings.cortex_grpc_url, settings.cortex_timeout, CortexSecurity.of(settings)
    )
    outbox = Outbox(
        settings.outbox_folder,
        settings.worker_id or "worker",
        settings.outbox_mb * 1_000_000,
        metrics,
    )
    genome = GenomeClient(settings.genome_http_url, settings.genome_timeout, settings.genome_token)
    engram = EngramClient(
        settings.minio_endpoint,
        settings.minio_access_key,
        settings.minio_secret_key,
        settings.minio_secure,
    )
    monitor = ResourceMonitor(settings, metrics)
    registrar = Registrar(cortex, lambda: registration(), wanted_id=settings.worker_id or "")
    leases = LeaseKeeper(cortex, registrar, metrics)
    loader = ModelLoaderService(settings, genome, engram, metrics)
    models = ModelFiles(loader, metrics)
    health = RuntimeHealth(unavailable, on_capabilities)
    engines = EnginePool(
        engine_factory or default_engine_factory(settings),
        models,
        max_loaded=settings.max_loaded_models,
        load_timeout_seconds=settings.model_load_timeout,
        idle_seconds=settings.model_idle_seconds,
        pinned=settings.pinned_models,
        health=health,
        metrics=metrics,
    )
    prefetcher = Prefetcher(loader, models, metrics)
    statuses = StatusReporter(cortex, registrar, leases)
    tokens = TokenStreamer(cortex, registrar, leases, metrics, outbox=outbox)
    big_results = BigResults(
        engram,
        cortex,
        registrar,
        bucket=settings.result_bucket,
        limit_bytes=settings.max_result_mb * 2**20,
    )
    results = ResultReporter(cortex, registrar, metrics, outbox, big_results)
    services = JobServices(
        worker_id=lambda: registrar.worker_id,
        leases=leases,
        engines=engines,
        statuses=statuses,
        tokens=tokens,
        results=results,
        unavailable_runtimes=unavailable,
        metrics=metrics,
        models=models,
        references=InputReferences(engram, settings.input_buckets),
        max_batch_size=settings.max_batch_size,
    )
    executor = ExecutorService(
        settings, "", genome, engram, cortex, services=services, on_activity=on_activity
    )
    poller = JobPollerService(
        "",
        cortex,
        executor,
        settings.poll_interval,
        wait_seconds=settings.poll_wait,
        registrar=registrar,
        models=lambda: engines.loaded_models,
        memory=engines.available_mb,
        outbox=outbox,
    )
    inbox = ActionInbox(handler)
    heartbeat = HeartbeatService(
        "",
        cortex,
        monitor,
        executor,
        settings.heartbeat_interval,
        describe=describe,
        on_answer=inbox.heartbeat_answered,
        on_hints=prefetcher.hint,
        on_unknown=registrar.register_again,
        on_success=systemd.alive,
        metrics=metrics,
    )

    async def registration() -> WorkerRegistration:
        return WorkerRegistration(
            hostname=settings.hostname,
            ip_address=settings.ip_address,
            version=settings.version,
            capabilities=capabilities_of(
                settings, unavailable, executor.max_concurrent, gpu=bool(monitor.gpu_devices)
            ),
            resources=await monitor.get_current_resources(),
            tags=settings.worker_tags,
        )

    def registered(info: WorkerInfo) -> None:
        executor.worker_id = poller.worker_id = heartbeat.worker_id = info.worker_id
        outbox.name_worker(info.worker_id)

    registrar.on_registered = registered
    return WorkerParts(
        settings=settings,
        metrics=metrics,
        unavailable=unavailable,
        cortex=cortex,
        work_stream=WorkStreamService(cortex),
        genome=genome,
        engram=engram,
        monitor=monitor,
        neighbours=NeighbourWatch(genome, engram),
        registrar=registrar,
        leases=leases,
        loader=loader,
        prefetcher=prefetcher,
        disk_models=DiskModels(loader.cache, settings.heartbeat_interval),
        engines=engines,
        health=health,
        guard=MemoryGuard(lambda: engines.residents, lambda: engines.budget),
        pinned=PinnedModels(settings.pinned_models, genome, engines),
        statuses=statuses,
        tokens=tokens,
        results=results,
        outbox=outbox,
        leftovers=Leftovers(cortex, registrar, tokens, results),
        executor=executor,
        poller=poller,
        inbox=inbox,
        heartbeat=heartbeat,
        notices=spot_notices(settings, handler),
        listener=ActionListener(cortex, registrar, inbox, observer=leases),
    )


def spot_notices(settings: Settings, handler: LeavingHandler) -> tuple[SpotNoticeService, ...]:
    """Return what listens for the provider's notice, if the operator asked for that."""
    if settings.spot_notices == "off":
        return ()
    source = SOURCES[settings.spot_notices](settings.spot_metadata_url)
    return (SpotNoticeService(source, handler),)


def find_unavailable(settings: Settings) -> dict[RuntimeType, str]:
    """Return the runtimes that were asked for and cannot run here, and why."""
    reasons = {}
    for runtime in settings.supported_runtimes:
        if reason := runtime_availability(runtime, settings.interpreter(runtime)):
            reasons[runtime] = reason
            logger.warning("runtime_unavailable", runtime=runtime.value, reason=reason)
        else:
            logger.info(_INITIALIZED[runtime])
    if RuntimeType.ECHO in settings.supported_runtimes:
        logger.warning(
            "echo_runtime_offered", purpose="to measure the path alone: it runs no model"
        )
    for runtime in RuntimeType:
        if runtime not in settings.supported_runtimes:
            reasons[runtime] = (
                f"this worker does not offer the runtime {runtime.value};"
                " NEURON_SUPPORTED_RUNTIMES names those it does"
            )
    return reasons


def capabilities_of(
    settings: Settings,
    unavailable: Mapping[RuntimeType, str],
    max_concurrent_jobs: int,
    *,
    gpu: bool = False,
) -> WorkerCapabilities:
    """Return what a worker with these settings can run."""
    return WorkerCapabilities(
        supported_runtimes=settings.supported_runtimes,
        max_concurrent_jobs=max_concurrent_jobs,
        supports_streaming=True,
        supports_gpu=gpu,
        max_model_size_gb=settings.max_model_size_gb,
        max_batch_size=settings.max_batch_size,
        unavailable_runtimes={
            runtime.value: reason
            for runtime, reason in unavailable.items()
            if runtime in settings.supported_runtimes
        },
    )


def default_engine_factory(settings: Settings) -> EngineFactory:
    """Return what makes an engine process for a model."""
    named = {runtime: settings.interpreter(runtime) for runtime in RuntimeType}
    engine_settings = EngineSettings(
        model_cache_dir=settings.model_cache_dir,
        allow_remote_code=settings.allow_remote_code,
        allow_pickle=settings.allow_pickle,
        max_batch_size=settings.max_batch_size,
        python={runtime: python for runtime, python in named.items() if python},
        log_level=settings.log_level,
    )

    def make(runtime: RuntimeType, family: str, version: str, config: Mapping[str, Any]) -> Engine:
        if runtime in IN_PROCESS:
            return InProcessEngine(runtime_class(runtime)(engine_settings), family, version, config)
        engine_log = logger.bind(model=f"{family}:{version}", runtime=runtime.value)

        def on_log(line: EngineLogLine) -> None:
            engine_log.info("engine_output", text=line.text, stream=line.stream)

        return EngineClient(
            runtime,
            family,
            version,
            config,
            engine_settings,
            on_log,
            stall_seconds=settings.engine_stall_seconds,
        )

    return make
