"""Which models are resident, each in an engine process of its own."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any, NamedTuple, Protocol

import msgspec
import structlog

from ..errors import NeuronError
from ..models.job import JobInput, ModelConfig, ResumeState
from ..models.runtime import RuntimeType
from ..models.worker import LoadedModel
from ..runtimes.base import Generation
from ..utils.metrics import WorkerMetrics
from ..utils.retry import Backoff

logger = structlog.get_logger(__name__)

FAIRNESS_SECONDS = 10.0
STOP_GRACE_SECONDS = 5.0
_CRASH_BACKOFF_MAX_SECONDS = 30.0


class Engine(Protocol):
    """A model in a process; EngineClient is one."""

    @property
    def pid(self) -> int | None: ...

    @property
    def is_alive(self) -> bool: ...

    @property
    def load_seconds(self) -> float: ...

    @property
    def memory_mb(self) -> int: ...

    async def start(self, timeout_seconds: float) -> None: ...

    def generate(
        self, job_input: JobInput, resume: ResumeState | None = None
    ) -> AsyncGenerator[Generation, None]: ...

    async def stop(self, grace_seconds: float = STOP_GRACE_SECONDS) -> None: ...

    async def wait_closed(self) -> None: ...


class EngineKey(NamedTuple):
    """What makes two jobs share an engine."""

    family: str
    version: str
    runtime: RuntimeType
    config_json: str

    @classmethod
    def of(cls, model: ModelConfig, runtime: RuntimeType) -> EngineKey:
        """Return the engine that a job's model needs."""
        config = msgspec.json.encode(model.runtime_config, order="deterministic").decode()
        return cls(model.family, model.version, runtime, config)

    @property
    def config(self) -> dict[str, Any]:
        """The runtime's configuration."""
        config: dict[str, Any] = msgspec.json.decode(self.config_json)
        return config


OnProgress = Callable[[str], None]
EngineFactory = Callable[[RuntimeType, str, str, Mapping[str, Any]], Engine]
FetchModel = Callable[[str, str, OnProgress], Awaitable[object]]


class _State(Enum):
    LOADING = auto()
    READY = auto()
    STOPPING = auto()


@dataclass(eq=False, slots=True)
class _Resident:
    """One place in memory: an engine that loads, runs or goes."""

    key: EngineKey
    engine: Engine
    state: _State = _State.LOADING
    users: int = 0
    last_used: float = field(default_factory=time.monotonic)
    settled: asyncio.Event = field(default_factory=asyncio.Event)
    error: NeuronError | None = None
    progress: str = "waiting for the model"
    listeners: set[OnProgress] = field(default_factory=set)
    task: asyncio.Task[None] | None = None

    def tell(self, progress: str) -> None:
        self.progress = progress
        for listener in list(self.listeners):
            listener(progress)


@dataclass(eq=False, slots=True)
class _Waiter:
    key: EngineKey
    granted: asyncio.Future[_Resident]
    since: float = field(default_factory=time.monotonic)


class EnginePool:
    """Lends engines to jobs; at most `max_loaded` models are resident.

    Jobs of one model share its engine and its one load. A model that is not resident takes a free
    place, or that of the least recently used idle one, never a busy one's: then its jobs wait,
    first come first served. Jobs of resident models may pass them for `fairness_seconds`.
    """

    def __init__(
        self,
        factory: EngineFactory,
        fetch: FetchModel,
        *,
        max_loaded: int = 1,
        load_timeout_seconds: float = 1800,
        fairness_seconds: float = FAIRNESS_SECONDS,
        metrics: WorkerMetrics | None = None,
    ) -> None:
        self._factory = factory
        self._fetch = fetch
        self._max_loaded = max_loaded
        self._load_timeout = load_timeout_seconds
        self._fairness = fairness_seconds
        self._metrics = metrics
        self._residents: list[_Resident] = []
        self._waiters: deque[_Waiter] = deque()
        self._crashes: dict[EngineKey, Backoff] = {}
        self._not_before: dict[EngineKey, float] = {}
        self._tasks: asyncio.TaskGroup | None = None

    async def start(self, tasks: asyncio.TaskGroup) -> None:
        """Run loads and watches in `tasks`."""
        self._tasks = tasks

    async def stop(self) -> None:
        """Stop every engine; returns when no process is left. May be called twice."""
        residents, self._residents = self._residents, []
        running = {r.task for r in residents if r.task is not None and not r.task.done()}
        for task in running:
            task.cancel()
        if running:
            await asyncio.wait(running)
        self._note_loaded()

    @property
    def loaded_models(self) -> list[LoadedModel]:
        """What is resident now."""
        return [
            LoadedModel(
                family=resident.key.family,
                version=resident.key.version,
                runtime=resident.key.runtime,
                load_seconds=resident.engine.load_seconds,
                memory_mb=resident.engine.memory_mb,
                active_jobs=resident.users,
            )
            for resident in self._residents
            if resident.state is _State.READY
        ]

    def is_warm(self, key: EngineKey) -> bool:
        """Whether a job for `key` could start at once."""
        resident = self._find(key)
        return resident is not None and resident.state is _State.READY and resident.engine.is_alive

    @asynccontextmanager
    async def use(self, key: EngineKey, on_progress: OnProgress) -> AsyncIterator[Engine]:
        """Lend the engine for `key`, loading it first if necessary.

        Raises the load's NeuronError. Cancelling the wait stops a load that nobody else wants.
        """
        resident = await self._granted(key, on_progress)
        try:
            resident.listeners.add(on_progress)
            try:
                if resident.state is _State.LOADING:
                    on_progress(resident.progress)
                await resident.settled.wait()
            finally:
                resident.listeners.discard(on_progress)
            if resident.error is not None:
                raise resident.error
            yield resident.engine
        finally:
            self._give_back(resident)

    async def _granted(self, key: EngineKey, on_progress: OnProgress) -> _Resident:
        waiter = _Waiter(key, asyncio.get_running_loop().create_future())
        self._waiters.append(waiter)
        self._pump()
        if not waiter.granted.done():
            on_progress("waiting until another model can make room")
        try:
            return await waiter.granted
        except asyncio.CancelledError:
            if waiter in self._waiters:
                self._waiters.remove(waiter)
            elif waiter.granted.done() and not waiter.granted.cancelled():
                self._give_back(waiter.granted.result())
            raise

    def _give_back(self, resident: _Resident) -> None:
        resident.users -= 1
        resident.last_used = time.monotonic()
        wanted = resident.users > 0 or any(w.key == resident.key for w in self._waiters)
        if resident.state is _State.LOADING and not wanted and resident.task is not None:
            resident.state = _State.STOPPING  # whoever comes from now on waits for another load
            resident.task.cancel()
        self._pump()

    def _pump(self) -> None:
        """Grant whatever can be granted now."""
        blocked_since: float | None = None
        for waiter in list(self._waiters):
            if waiter.granted.done():
                self._waiters.remove(waiter)
                continue
            if blocked_since is not None and self._too_old(blocked_since):
                return
            resident = self._place_for(waiter.key)
            if resident is None:
                blocked_since = waiter.since if blocked_since is None else blocked_since
                continue
            self._waiters.remove(waiter)
            resident.users += 1
            waiter.granted.set_result(resident)

    def _too_old(self, since: float) -> bool:
        return time.monotonic() - since >= self._fairness

    def _place_for(self, key: EngineKey) -> _Resident | None:
        resident = self._find(key)
        if resident is not None and resident.state is not _State.STOPPING:
            if resident.state is _State.LOADING or resident.engine.is_alive:
                return resident
            return None  # it has just died; its watch makes room
        if resident is not None:
            return None
        if len(self._residents) < self._max_loaded:
            return self._begin(key)
        self._evict_one()
        return None

    def _find(self, key: EngineKey) -> _Resident | None:
        return next((r for r in self._residents if r.key == key), None)

    def _evict_one(self) -> None:
        if any(resident.state is _State.STOPPING for resident in self._residents):
            return
        idle = [r for r in self._residents if r.users == 0 and r.state is _State.READY]
        if idle:
            oldest = min(idle, key=lambda resident: resident.last_used)
            logger.info("model_evicted", family=oldest.key.family, version=oldest.key.version)
            oldest.state = _State.STOPPING
            if oldest.task is not None:
                oldest.task.cancel()

    def _begin(self, key: EngineKey) -> _Resident:
        assert self._tasks is not None, "the pool was not started"
        engine = self._factory(key.runtime, key.family, key.version, key.config)
        resident = _Resident(key, engine)
        self._residents.append(resident)
        resident.task = self._tasks.create_task(
            self._live(resident), name=f"engine {key.family}:{key.version}"
        )
        return resident

    async def _live(self, resident: _Resident) -> None:
        """An engine's whole life: load, run until it dies or is evicted, leave nothing."""
        try:
            await self._load(resident)
            await resident.engine.wait_closed()
            self._note_crash(resident)
        except Exception as error:  # noqa: BLE001 - one engine's trouble never ends the worker
            self._note_failure(resident, error)
        finally:
            resident.state = _State.STOPPING
            try:
                await resident.engine.stop(STOP_GRACE_SECONDS)
            finally:
                if resident in self._residents:
                    self._residents.remove(resident)
                resident.error = resident.error or NeuronError("the model was unloaded")
                resident.settled.set()
                self._note_loaded()
                self._pump()

    async def _load(self, resident: _Resident) -> None:
        key = resident.key
        wait = self._not_before.get(key, 0.0) - time.monotonic()
        if wait > 0:
            resident.tell(f"the engine crashed; it starts again in {wait:.0f} s")
            await asyncio.sleep(wait)
        resident.tell("fetching the model")
        await self._fetch(key.family, key.version, resident.tell)
        resident.tell("loading the model")
        await resident.engine.start(self._load_timeout)
        resident.state = _State.READY
        resident.settled.set()
        if self._metrics is not None:
            self._metrics.load_seconds.observe(resident.engine.load_seconds)
        self._note_loaded()
        logger.info(
            "model_ready",
            family=key.family,
            version=key.version,
            runtime=key.runtime.value,
            load_seconds=round(resident.engine.load_seconds, 2),
            pid=resident.engine.pid,
        )

    def _note_failure(self, resident: _Resident, error: Exception) -> None:
        if isinstance(error, NeuronError):
            resident.error = error
        else:
            name = type(error).__name__
            resident.error = NeuronError(f"the engine could not be run ({name}: {error})")
        logger.error(
            "model_load_failed",
            family=resident.key.family,
            version=resident.key.version,
            code=resident.error.code.value,
            error=resident.error.message,
            exc_info=None if isinstance(error, NeuronError) else error,
        )

    def _note_crash(self, resident: _Resident) -> None:
        backoff = self._crashes.setdefault(
            resident.key, Backoff(initial=0.5, maximum=_CRASH_BACKOFF_MAX_SECONDS)
        )
        if time.monotonic() - resident.last_used > _CRASH_BACKOFF_MAX_SECONDS:
            backoff.reset()
        self._not_before[resident.key] = time.monotonic() + backoff.next_delay()
        if self._metrics is not None:
            self._metrics.engine_crashes.inc()
        logger.error("engine_died", family=resident.key.family, version=resident.key.version)

    def _note_loaded(self) -> None:
        if self._metrics is not None:
            self._metrics.models_loaded.set(len(self.loaded_models))
