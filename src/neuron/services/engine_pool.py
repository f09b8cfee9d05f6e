"""Which models are resident, each in an engine process of its own."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Iterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, contextmanager
from pathlib import Path

import structlog

from ..errors import (
    DiskInUseError,
    EngineCrashedError,
    InsufficientResourcesError,
    ModelTooLargeError,
    NeuronError,
    RuntimeUnavailableError,
)
from ..models.worker import LoadedModel
from ..runtimes.registry import IN_PROCESS
from ..utils.metrics import WorkerMetrics
from ..utils.retry import Backoff
from ..utils.signal import ChangeSignal
from .engine import STOP_GRACE_SECONDS, Engine, EngineFactory, EngineKey, ModelSource
from .load_progress import LoadProgress, OnProgress, starting
from .memory_budget import RAM, Demand, Footprint, MemoryBudget, measure_demand
from .model_loader import ModelInUse
from .resident import Resident, ResidentState
from .runtime_health import RuntimeHealth

logger = structlog.get_logger(__name__)

FAIRNESS_SECONDS = 10.0
LINGER_SECONDS = 1.0
"""An idle model is spared for so long: its next jobs are on their way, and loading costs more."""
_CRASH_BACKOFF_MAX_SECONDS = 30.0
STARTING_NEWS_SECONDS = 5.0
"""How often it is said for how long an engine has been starting."""
_WAITING = LoadProgress("waiting until another model can make room")

MeasureDemand = Callable[[EngineKey, Path, MemoryBudget], Awaitable[Demand]]


class EngineUse(AbstractAsyncContextManager[Engine]):
    """An engine for the length of a block; made by EnginePool.use()."""

    __slots__ = ("_alone", "_key", "_on_progress", "_pool", "_resident")

    def __init__(
        self, pool: EnginePool, key: EngineKey, on_progress: OnProgress, *, alone: bool
    ) -> None:
        self._pool = pool
        self._key = key
        self._on_progress = on_progress
        self._alone = alone
        self._resident: Resident | None = None

    async def __aenter__(self) -> Engine:
        self._resident = await self._pool.borrow(self._key, self._on_progress, alone=self._alone)
        return self._resident.engine

    async def __aexit__(self, *error: object) -> None:
        assert self._resident is not None
        self._pool.give_back(self._resident)


class EnginePool:
    """Lends engines to jobs; those that are resident fit into the memory budget together.

    Jobs of one model share its engine and its one load. A model that is not resident takes what
    is free, or the room of the least recently used idle ones, never a busy or a pinned one's:
    then it waits, first come first served. Jobs of resident models may pass it for
    `fairness_seconds`; then the model that has been resident longest (at least as long as its
    loading took) takes no more jobs, until there is room. A model without a job for
    `idle_seconds` goes (0: it stays).
    """

    def __init__(
        self,
        factory: EngineFactory,
        models: ModelSource,
        *,
        max_loaded: int = 8,
        load_timeout_seconds: float = 1800,
        fairness_seconds: float = FAIRNESS_SECONDS,
        linger_seconds: float = LINGER_SECONDS,
        idle_seconds: float = 0.0,
        pinned: Collection[str] = (),
        health: RuntimeHealth | None = None,
        metrics: WorkerMetrics | None = None,
        measure: MeasureDemand = measure_demand,
    ) -> None:
        self._factory = factory
        self._models = models
        self._max_loaded = max_loaded
        self._load_timeout = load_timeout_seconds
        self._fairness = fairness_seconds
        self._linger = linger_seconds
        self._idle_seconds = idle_seconds
        self._pinned = set(pinned)
        self._health = health
        self._metrics = metrics
        self._measure = measure
        self._budget = MemoryBudget({RAM: 0})
        self._residents: list[Resident] = []
        self._known: dict[EngineKey, Footprint] = {}
        """What models turned out to hold when they were loaded before."""
        self._crashes: dict[EngineKey, Backoff] = {}
        self._not_before: dict[EngineKey, float] = {}
        self._changed = ChangeSignal()
        self._tasks: asyncio.TaskGroup | None = None
        self._unloading: asyncio.Task[None] | None = None

    async def start(self, tasks: asyncio.TaskGroup, budget: MemoryBudget) -> None:
        """Run loads and watches in `tasks`, within `budget`."""
        self._tasks = tasks
        self._budget = budget
        logger.info("engine_memory", **budget.limits)
        if self._idle_seconds:
            self._unloading = tasks.create_task(self._unload_idle(), name="idle models")

    async def stop(self) -> None:
        """Stop every engine; returns when no process is left. May be called twice."""
        residents, self._residents = self._residents, []
        running = {r.task for r in residents if r.task is not None and not r.task.done()}
        if self._unloading is not None:
            running.add(self._unloading)
            self._unloading = None
        for task in running:
            task.cancel()
        if running:
            await asyncio.wait(running)
        self._note_loaded()

    @property
    def budget(self) -> MemoryBudget:
        """What engines may hold."""
        return self._budget

    @property
    def residents(self) -> list[Resident]:
        """Those that hold memory now."""
        return [resident for resident in self._residents if resident.holds_memory]

    @property
    def loaded_models(self) -> list[LoadedModel]:
        """What is ready now."""
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
            if resident.state is ResidentState.READY
        ]

    def available_mb(self) -> tuple[int, int]:
        """RAM and GPU memory that a model could be given by evicting the idle ones."""
        staying = [resident.held for resident in self.residents if not resident.is_idle]
        free = self._budget.free(staying)
        gpus = sum(max(0, size) for pool, size in free.items() if pool != RAM)
        return max(0, free[RAM]), gpus

    def is_warm(self, key: EngineKey) -> bool:
        """Whether a job for `key` could start at once."""
        resident = self._find(key)
        return resident is not None and resident.settled.is_set() and resident.takes_users

    def pin(self, model: str) -> None:
        """Never evict `family:version` from now on; it is not loaded by this."""
        self._set_pinned(model, pinned=True)

    def unpin(self, model: str) -> None:
        """Treat `family:version` like any other from now on."""
        self._set_pinned(model, pinned=False)

    def _set_pinned(self, model: str, *, pinned: bool) -> None:
        (self._pinned.add if pinned else self._pinned.discard)(model)
        for resident in self._residents:
            if resident.key.model == model:
                resident.pinned = pinned
        self._changed.notify()

    def digest_of(self, key: EngineKey) -> str | None:
        """The digest of the files that the engine for `key` was given; None if it has none."""
        resident = self._find(key)
        return None if resident is None else resident.digest

    def use(self, key: EngineKey, on_progress: OnProgress, *, alone: bool = False) -> EngineUse:
        """Lend the engine for `key`, loading it first if necessary; `alone`: to nobody else.

        Raises the load's NeuronError; ModelTooLargeError when a bigger worker must do it.
        Cancelling the wait stops a load that nobody else wants.
        """
        return EngineUse(self, key, on_progress, alone=alone)

    async def borrow(self, key: EngineKey, on_progress: OnProgress, *, alone: bool) -> Resident:
        """Return what lends the engine, until give_back(); as use()."""
        resident = await self._join(key, on_progress)
        try:
            if not resident.settled.is_set():
                await self._settled(resident, on_progress)
            if resident.error is not None:
                raise resident.error
            await resident.gate.enter(alone=alone)
        except BaseException:
            self._leave(resident)
            raise
        return resident

    def give_back(self, resident: Resident) -> None:
        """Use it no more."""
        resident.gate.leave()
        self._leave(resident)

    async def _join(self, key: EngineKey, on_progress: OnProgress) -> Resident:
        while True:
            resident = self._find(key) or self._begin(key)
            if resident.takes_users and not self._must_yield(resident):
                resident.users += 1
                return resident
            on_progress(_WAITING)
            await self._changed.wait()

    async def _settled(self, resident: Resident, on_progress: OnProgress) -> None:
        if resident.settled.is_set():
            return
        resident.listeners.add(on_progress)
        on_progress(resident.progress)
        try:
            await resident.settled.wait()
        finally:
            resident.listeners.discard(on_progress)

    def _leave(self, resident: Resident) -> None:
        resident.users -= 1
        resident.last_used = time.monotonic()
        if resident.users == 0 and resident.is_loading:
            resident.evict()  # whoever comes from now on waits for another load
        self._changed.notify()

    def _find(self, key: EngineKey) -> Resident | None:
        for resident in self._residents:
            if resident.key == key:
                return resident
        return None

    def _begin(self, key: EngineKey) -> Resident:
        assert self._tasks is not None, "the pool was not started"
        engine = self._factory(key.runtime, key.family, key.version, key.config)
        resident = Resident(key, engine, pinned=key.model in self._pinned)
        self._residents.append(resident)
        resident.task = self._tasks.create_task(self._live(resident), name=f"engine {key.model}")
        return resident

    # ------------------------------------------------------------ an engine's life

    async def _live(self, resident: Resident) -> None:
        """Load, run until it dies or is evicted, leave nothing."""
        try:
            async with AsyncExitStack() as files:  # they stay on this disk until the engine is gone
                await self._run(resident, files)
        finally:
            if resident in self._residents:
                self._residents.remove(resident)
            resident.error = resident.error or NeuronError("the model was unloaded")
            resident.settled.set()
            resident.gone.set()
            self._note_loaded()
            self._changed.notify()

    async def _run(self, resident: Resident, files: AsyncExitStack) -> None:
        try:
            await self._load(resident, files)
            await resident.engine.wait_closed()
            self._note_crash(resident)
        except Exception as error:  # noqa: BLE001 - one engine's trouble never ends the worker
            self._note_failure(resident, error)
        finally:
            resident.state = ResidentState.STOPPING
            await resident.engine.stop(STOP_GRACE_SECONDS)

    async def _load(self, resident: Resident, files: AsyncExitStack) -> None:
        key = resident.key
        await self._wait_out_crash(resident)
        has_files = key.runtime not in IN_PROCESS
        demand = await self._fetched(resident, files) if has_files else Demand({})
        resident.footprint = self._known.get(key, demand.need)
        await self._wait_for_room(resident, demand)
        try:
            await self._start(resident)
        except InsufficientResourcesError as error:
            await self._start_again(resident, error)
        if not resident.is_current():
            raise NeuronError(f"{key.model} was replaced while it was loaded")
        self._note_ready(resident)

    async def _fetched(self, resident: Resident, files: AsyncExitStack) -> Demand:
        key = resident.key
        resident.tell(LoadProgress("looking for the model"))
        model = await self._hold_files(resident, files)
        resident.has_files = True
        resident.digest = model.digest or None
        resident.is_current = model.is_current
        return await self._measure(key, model.path, self._budget)

    async def _hold_files(self, resident: Resident, files: AsyncExitStack) -> ModelInUse:
        """Have the files here; where models in use fill the disk, one of this worker's goes."""
        key = resident.key
        while True:
            try:
                return await files.enter_async_context(
                    self._models.using(key.family, key.version, resident.tell)
                )
            except DiskInUseError:
                resident.waiting_since = resident.waiting_since or time.monotonic()
                if not await self._until_one_goes(resident):
                    raise

    async def _until_one_goes(self, waiting: Resident) -> bool:
        """Return when a model has left the memory, so that its files may go; False if none can."""
        staying = {r for r in self.residents if r.has_files and not r.pinned}
        if not staying:
            return False
        waiting.state = ResidentState.WAITING
        try:
            while staying.issubset(self._residents):
                waiting.tell(_WAITING)
                await self._change_within(self._evict_one(waiting))
        finally:
            if waiting.state is ResidentState.WAITING:
                waiting.state = ResidentState.FETCHING
        return True

    async def _wait_out_crash(self, resident: Resident) -> None:
        wait = self._not_before.get(resident.key, 0.0) - time.monotonic()
        if wait > 0:
            resident.tell(LoadProgress(f"the engine crashed; it starts again in {wait:.0f} s"))
            await asyncio.sleep(wait)

    async def _start(self, resident: Resident) -> None:
        assert self._tasks is not None
        resident.tell(starting(0))
        news = self._tasks.create_task(_tell_starting(resident), name=f"news {resident.key.model}")
        try:
            with self._measured("start"):
                await resident.engine.start(self._load_timeout)
        finally:
            news.cancel()
            self._tell_health(resident)

    @contextmanager
    def _measured(self, phase: str) -> Iterator[None]:
        """Count how long a phase of a load took, if it comes to its end."""
        began = time.monotonic()
        yield
        if self._metrics is not None:
            self._metrics.load_phase_seconds.labels(phase).observe(time.monotonic() - began)

    async def _start_again(self, resident: Resident, error: NeuronError) -> None:
        """Memory ran out: once more without the idle models, then it is for a bigger worker."""
        if not await self._evict_all_idle():
            raise self._too_large(resident, error.message) from error
        key = resident.key
        logger.warning("model_load_again", model=key.model, error=error.message)
        resident.engine = self._factory(key.runtime, key.family, key.version, key.config)
        try:
            await self._start(resident)
        except InsufficientResourcesError as again:
            raise self._too_large(resident, again.message) from again

    def _tell_health(self, resident: Resident) -> None:
        if self._health is not None and resident.engine.runtime_started:
            self._health.started(resident.key.runtime)

    # ------------------------------------------------------------ room

    async def _wait_for_room(self, resident: Resident, demand: Demand) -> None:
        resident.state = ResidentState.WAITING
        resident.waiting_since = time.monotonic()
        with self._measured("room"):
            await self._until_room(resident, demand)
        resident.state = ResidentState.STARTING
        self._changed.notify()

    async def _until_room(self, resident: Resident, demand: Demand) -> None:
        while self._lacks_room(resident):
            if self._is_first(resident) and all(other.pinned for other in self.residents):
                if self.residents or not self._may_try(resident, demand):
                    raise self._too_large(resident, f"{resident.key.model} does not fit")
                break
            resident.tell(_WAITING)
            await self._change_within(self._evict_one(resident))

    def _lacks_room(self, resident: Resident) -> bool:
        if not self._is_first(resident):
            return True
        held = [other.held for other in self.residents]
        if len(held) >= self._max_loaded:
            return True
        return self._budget.lacking(resident.footprint, held) is not None

    def _may_try(self, resident: Resident, demand: Demand) -> bool:
        """Whether an estimate alone speaks against it: the weights themselves would fit."""
        room = sum(self._budget.limits.get(pool, 0) for pool in resident.main_pools)
        return demand.least_mb <= room

    def _first_waiting(self) -> Resident | None:
        first: Resident | None = None
        for resident in self._residents:
            if resident.state is ResidentState.WAITING and (
                first is None or resident.waiting_since < first.waiting_since
            ):
                first = resident
        return first

    def _is_first(self, resident: Resident) -> bool:
        return self._first_waiting() is resident

    def _must_yield(self, resident: Resident) -> bool:
        """Whether it takes no more jobs, since another model has waited too long for its room."""
        first = self._first_waiting()
        if first is None or not self._has_waited_long(first):
            return False
        ready = [r for r in self._residents if r.state is ResidentState.READY and not r.pinned]
        longest = min(ready, key=lambda r: r.ready_since, default=None)
        served = time.monotonic() - resident.ready_since
        return resident is longest and served >= resident.engine.load_seconds

    def _has_waited_long(self, resident: Resident) -> bool:
        return time.monotonic() - resident.waiting_since >= self._fairness

    def _evict_one(self, waiting: Resident) -> float | None:
        """Have one idle model go, unless one goes already; else in how many seconds one may."""
        if any(resident.state is ResidentState.STOPPING for resident in self._residents):
            return None
        idle = [resident for resident in self._residents if resident.is_idle]
        oldest = min(idle, key=lambda resident: resident.last_used, default=None)
        if oldest is None or not self._is_first(waiting):
            return None
        spared = oldest.last_used + self._linger - time.monotonic()
        if spared > 0 and not self._has_waited_long(waiting):
            return spared
        self._evict(oldest)
        return None

    async def _change_within(self, seconds: float | None) -> None:
        """Return when something has changed, or when the time is over."""
        try:
            async with asyncio.timeout(seconds):
                await self._changed.wait()
        except TimeoutError:
            return

    async def _evict_all_idle(self) -> bool:
        """Make all the room there is; return whether that is any."""
        idle = [resident for resident in self._residents if resident.is_idle]
        for resident in idle:
            self._evict(resident)
        for resident in idle:
            await resident.gone.wait()
        return bool(idle)

    def _evict(self, resident: Resident) -> None:
        logger.info("model_evicted", family=resident.key.family, version=resident.key.version)
        resident.evict()

    async def _unload_idle(self) -> None:
        while True:
            now = time.monotonic()
            idle = [resident for resident in self._residents if resident.is_idle]
            for resident in idle:
                if now - resident.last_used >= self._idle_seconds:
                    self._evict(resident)
            staying = [r.last_used + self._idle_seconds - now for r in idle if r.is_idle]
            await self._change_within(min(staying, default=None))

    def _too_large(self, resident: Resident, words: str) -> ModelTooLargeError:
        on_gpu = resident.main_pools != [RAM]
        limits = self._budget.limits
        room = sum(size for pool, size in limits.items() if (pool != RAM) == on_gpu)
        kind = "GPU memory" if on_gpu else "memory"
        return ModelTooLargeError(
            f"{words} (this worker has {room} MB of {kind} for models): it needs a bigger worker",
            **{"min_gpu_memory_mb" if on_gpu else "min_memory_mb": room + 1},
        )

    # ------------------------------------------------------------ what is told

    def _note_ready(self, resident: Resident) -> None:
        key, engine = resident.key, resident.engine
        resident.footprint = self._known[key] = resident.measured()
        resident.state = ResidentState.READY
        resident.ready_since = resident.last_used = time.monotonic()
        resident.settled.set()
        if self._metrics is not None:
            self._metrics.load_seconds.observe(engine.load_seconds)
        self._note_loaded()
        self._changed.notify()
        logger.info(
            "model_ready",
            family=key.family,
            version=key.version,
            runtime=key.runtime.value,
            load_seconds=round(engine.load_seconds, 2),
            memory_mb=engine.memory_mb,
            pid=engine.pid,
        )

    def _note_failure(self, resident: Resident, error: Exception) -> None:
        if isinstance(error, NeuronError):
            resident.error = error
        else:
            name = type(error).__name__
            resident.error = NeuronError(f"the engine could not be run ({name}: {error})")
        if self._health is not None and _is_the_runtime_s(resident):
            self._health.failed(resident.key.runtime, resident.error.message)
        logger.error(
            "model_load_failed",
            family=resident.key.family,
            version=resident.key.version,
            code=resident.error.code.value,
            error=resident.error.message,
            exc_info=None if isinstance(error, NeuronError) else error,
        )

    def _note_crash(self, resident: Resident) -> None:
        backoff = self._crashes.setdefault(
            resident.key, Backoff(initial=0.5, maximum=_CRASH_BACKOFF_MAX_SECONDS)
        )
        if time.monotonic() - resident.ready_since > _CRASH_BACKOFF_MAX_SECONDS:
            backoff.reset()
        self._not_before[resident.key] = time.monotonic() + backoff.next_delay()
        if self._metrics is not None:
            self._metrics.engine_crashes.inc()
        logger.error("engine_died", family=resident.key.family, version=resident.key.version)

    def _note_loaded(self) -> None:
        if self._metrics is not None:
            self._metrics.models_loaded.set(len(self.loaded_models))


async def _tell_starting(resident: Resident) -> None:
    """Say to those who wait, and to the log, for how long the engine has been starting."""
    began = time.monotonic()
    while True:
        await asyncio.sleep(STARTING_NEWS_SECONDS)
        seconds = time.monotonic() - began
        resident.tell(starting(seconds))
        logger.info("engine_starting", model=resident.key.model, seconds=round(seconds))


def _is_the_runtime_s(failed: Resident) -> bool:
    """Whether any model would have failed like this: the engine did not get to its model."""
    if failed.state is not ResidentState.STARTING or failed.engine.runtime_started:
        return False
    return isinstance(failed.error, EngineCrashedError | RuntimeUnavailableError)
