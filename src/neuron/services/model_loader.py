"""Model loading and caching service."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import structlog
from opentelemetry import trace

from mnemos.engram.cache import ArtifactCache, Hold
from mnemos.engram.errors import EngramError
from mnemos.engram.fetch import CONNECTIONS, WantedFile
from mnemos.engram.obtain import in_thread, obtain

from ..clients.engram_client import translated
from ..config import Settings
from ..errors import (
    ArtifactCorruptError,
    InsufficientResourcesError,
    NeuronError,
    StorageUnavailableError,
)
from ..utils.metrics import WorkerMetrics
from .damaged_artifacts import DamagedArtifacts
from .model_cache import ModelCache
from .model_manifest import ModelManifest, parse_manifest
from .model_trust import ModelTrust

logger = structlog.get_logger(__name__)
tracer = trace.get_tracer(__name__)

OnProgress = Callable[[str], None]
OnTransfer = Callable[[int, int], None]
"""Called on the event loop with the bytes that are here, and those of the whole model.

The first call comes when the download begins and names what was here already; it is also called
while another worker of this machine downloads.
"""
_GIB = 1024**3


@dataclass(frozen=True, slots=True)
class ModelInUse:
    """A model that stays on this machine's disk while it is held."""

    path: Path
    """The folder of its files."""
    digest: str
    """The model's digest, "sha256:<hex>" over its files: what GENOME calls artifact.checksum.

    Empty only for files that an older version cached without one, while GENOME is down.
    """
    is_current: Callable[[], bool] = lambda: True
    """False once the version was replaced in GENOME and others lie at `path`. Looks at the disk."""


class ModelCatalogue(Protocol):
    """What loading asks of GENOME."""

    async def get_model(self, family: str, version: str) -> dict[str, Any]: ...


class ArtifactStore(Protocol):
    """What loading asks of ENGRAM."""

    async def fetch(
        self,
        bucket: str | None,
        files: Sequence[WantedFile],
        on_bytes: Callable[[int], None] | None = None,
        *,
        connections: int = CONNECTIONS,
    ) -> None: ...

    async def fingerprint(self, bucket: str | None, prefix: str) -> str: ...


class ModelLoaderService:
    """Brings a model's files to this machine, verified, once for all who ask.

    Cancelling a load leaves what has come for the next one, and no model that is not whole.
    """

    def __init__(
        self,
        settings: Settings,
        genome_client: ModelCatalogue,
        engram_client: ArtifactStore,
        metrics: WorkerMetrics | None = None,
    ) -> None:
        self.settings = settings
        self.genome_client = genome_client
        self.engram_client = engram_client
        budget = settings.cache_budget_gb
        self._trust = ModelTrust(
            allow_pickle=settings.allow_pickle,
            require_signatures=settings.require_signatures,
            keys=settings.signature_keys,
        )
        self.cache = ModelCache(
            settings.model_cache_dir,
            None if budget is None else int(budget * _GIB),
            settings.pinned_models,
        )
        self._damaged = DamagedArtifacts(engram_client)
        self._metrics = metrics
        self._locks: dict[str, asyncio.Lock] = {}
        logger.info("model_loader_initialized", cache_dir=str(settings.model_cache_dir))

    async def load_model(
        self,
        family: str,
        version: str,
        on_progress: OnProgress | None = None,
        on_transfer: OnTransfer | None = None,
    ) -> Path:
        """Return the folder of the model's files, downloading them if necessary.

        `on_progress` gets sentences for a person ("downloading the model, 37 %"), `on_transfer`
        bytes; neither is called when the model is here. `using` also keeps it here.

        Raises:
            InvalidInputError: names that could lead out of the cache, or a pickle.
            ModelNotFoundError, StorageUnavailableError: GENOME or ENGRAM.
            ArtifactCorruptError: what came is not what the manifest says; nothing is kept.
            UntrustedModelError: this worker wants a signature that the model does not have.
            InsufficientResourcesError: too big for the settings or the disk, or what is in use
                leaves no room.
        """
        async with self.using(family, version, on_progress, on_transfer) as model:
            return model.path

    @asynccontextmanager
    async def using(
        self,
        family: str,
        version: str,
        on_progress: OnProgress | None = None,
        on_transfer: OnTransfer | None = None,
    ) -> AsyncIterator[ModelInUse]:
        """Load the model and hold it: no worker of this machine evicts it before the block ends.

        Hold it for as long as an engine has the model. Many may hold one model; what is held
        ends with the process. The digest is that of the files at `path`. Raises as load_model.
        """
        self.cache.folder(family, version)
        model_key = f"{family}:{version}"
        progress = _Progress(
            model_key, on_progress or _nobody, on_transfer or _no_bytes, self._metrics
        )
        with tracer.start_as_current_span("load_model") as span:
            span.set_attribute("model.family", family)
            span.set_attribute("model.version", version)
            async with self._locks.setdefault(model_key, asyncio.Lock()):
                held = await self._load(family, version, model_key, progress)
            span.set_attribute("model.digest", held.digest)
        try:
            yield ModelInUse(held.path, held.digest, lambda: held.is_current)
        finally:
            await in_thread(held.close)

    async def fetch_ahead(
        self, family: str, version: str, *, spared_seconds: float, connections: int
    ) -> bool:
        """Download a model that no job waits for; return whether it was not here yet.

        It takes `connections`, and the room of no model that was used in the last
        `spared_seconds`. Cancelling leaves what has come for the next load. Raises as load_model.
        """
        self.cache.folder(family, version)
        model_key = f"{family}:{version}"
        progress = _Progress(model_key, _nobody, _no_bytes, self._metrics)
        async with self._locks.setdefault(model_key, asyncio.Lock()):
            manifest = await self._manifest(family, version)
            if held := await self._hold(model_key, manifest.digest):
                held.close()
                return False
            self._check_size(model_key, manifest)
            cache = await in_thread(self.cache.sparing, spared_seconds)
            held = await self._download_model(
                family, version, manifest, progress, cache=cache, connections=connections
            )
            held.close()
        await self.note_usage()
        return True

    async def digest(self, family: str, version: str) -> str | None:
        """Return the digest of the model as it lies in the cache; None if it does not.

        Asks the disk, not GENOME. Raises InvalidInputError for names that cannot be.
        """
        return await in_thread(self.cache.digest, f"{family}:{version}")

    async def note_usage(self) -> None:
        """Have the metrics say how much the cache holds, and may hold."""
        if self._metrics is None:
            return
        try:
            usage = await in_thread(self.cache.artifacts.usage)
        except (EngramError, OSError) as error:
            logger.warning("cache_not_measured", error=str(error))
            return
        self._metrics.cache_bytes.set(usage.held_bytes)
        self._metrics.cache_limit_bytes.set(usage.limit_bytes)

    async def _load(self, family: str, version: str, model_key: str, progress: _Progress) -> Hold:
        try:
            manifest = await self._manifest(family, version)
        except StorageUnavailableError as error:
            return await self._cached_or_raise(model_key, error)
        if held := await self._hold(model_key, manifest.digest):
            self._count_look("hit")
            logger.info("model_cache_hit", model=model_key, path=str(held.path))
            return held
        self._count_look("miss")
        logger.info("model_cache_miss", model=model_key, message="Downloading from storage")
        self._check_size(model_key, manifest)
        held = await self._download_model(family, version, manifest, progress)
        try:
            await self.note_usage()
        except BaseException:
            held.close()
            raise
        logger.info("model_loaded", model=model_key, path=str(held.path))
        return held

    async def _manifest(self, family: str, version: str) -> ModelManifest:
        """Return what GENOME says the model is: the one place where that is judged."""
        metadata = await self._fetch_metadata(family, version)
        manifest = await asyncio.to_thread(parse_manifest, metadata, family, version)
        await self._trust.judge(f"{family}:{version}", metadata, manifest.files, manifest.digest)
        return manifest

    async def _hold(self, model_key: str, digest: str | None = None) -> Hold | None:
        return await in_thread(self.cache.hold, model_key, digest, undo=_close)

    async def _cached_or_raise(self, model_key: str, error: StorageUnavailableError) -> Hold:
        held = await self._hold(model_key)
        if held is None:
            raise error
        if not self._trust.takes_cached(model_key, held.digest):
            held.close()
            raise error
        self._count_look("hit")
        logger.warning("genome_down_using_cache", model=model_key, error=error.message)
        return held

    async def _fetch_metadata(self, family: str, version: str) -> dict[str, Any]:
        try:
            return await self.genome_client.get_model(family, version)
        except NeuronError as error:
            logger.error(
                "fetch_metadata_failed", family=family, version=version, error=error.message
            )
            raise

    async def _download_model(
        self,
        family: str,
        version: str,
        manifest: ModelManifest,
        progress: _Progress,
        *,
        cache: ArtifactCache | None = None,
        connections: int = CONNECTIONS,
    ) -> Hold:
        model_key = f"{family}:{version}"
        size_mb = manifest.total_bytes // 2**20
        await self._damaged.check(manifest)
        logger.info("downloading_model", model=model_key, size_mb=size_mb)

        async def fetch(files: Sequence[WantedFile], on_bytes: Callable[[int], None]) -> None:
            await self.engram_client.fetch(
                manifest.bucket or None, files, on_bytes, connections=connections
            )

        try:
            with translated(model_key):
                held = await obtain(
                    cache or self.cache.artifacts,
                    family,
                    version,
                    manifest.files,
                    manifest.artifact_path,
                    fetch,
                    progress,
                )
        except NeuronError as error:
            logger.error("download_model_failed", model=model_key, error=error.message)
            if isinstance(error, ArtifactCorruptError):
                await self._damaged.note(manifest, error)
            raise
        logger.info("model_downloaded", model=model_key, size_mb=size_mb)
        return held

    def _check_size(self, model_key: str, manifest: ModelManifest) -> None:
        limit = self.settings.max_model_size_gb
        if manifest.total_bytes > limit * _GIB:
            raise InsufficientResourcesError(
                f"{model_key} takes {manifest.total_bytes / _GIB:.1f} GiB, and this worker's"
                f" NEURON_MAX_MODEL_SIZE_GB is {limit:g}"
            )

    def _count_look(self, outcome: str) -> None:
        if self._metrics is not None:
            self._metrics.cache_looks.labels(outcome).inc()


class _Progress:
    """Says to those who wait how a model arrives: at each whole percent, and few times a second."""

    def __init__(
        self,
        model_key: str,
        tell: OnProgress,
        transferred: OnTransfer,
        metrics: WorkerMetrics | None,
    ) -> None:
        self._model_key = model_key
        self._tell = tell
        self._transferred = transferred
        self._metrics = metrics
        self._done = 0
        self._total = 0
        self._told = ""
        self._told_at = 0.0

    def begun(self, here_bytes: int, total_bytes: int) -> None:
        """Say where the download begins."""
        self._done, self._total = here_bytes, total_bytes
        self._say(f"downloading the model, {self._percent()} %")
        self._transferred(self._done, self._total)

    def came(self, count: int) -> None:
        """Count what has come."""
        self._done = min(self._total, self._done + count)
        if self._metrics is not None:
            self._metrics.download_bytes.inc(count)
        now = time.monotonic()
        said = self._say(f"downloading the model, {self._percent()} %")
        if said or now - self._told_at >= _TELL_SECONDS:
            self._told_at = now
            self._transferred(self._done, self._total)

    def waiting(self, percent: int) -> None:
        """Say that another worker downloads."""
        self._say(f"another worker on this machine downloads the model, {percent} %")

    def evicted(self, models: Sequence[str]) -> None:
        """Log and count what made room."""
        logger.info("models_evicted_from_disk", models=list(models), made_room_for=self._model_key)
        if self._metrics is not None:
            self._metrics.cache_evictions.inc(len(models))

    def _percent(self) -> int:
        return 100 * self._done // max(1, self._total)

    def _say(self, words: str) -> bool:
        if words == self._told:
            return False
        self._told = words
        self._tell(words)
        return True


_TELL_SECONDS = 0.5


def _close(held: Hold | None) -> None:
    if held is not None:
        held.close()


def _nobody(_: str) -> None:
    return


def _no_bytes(_: int, __: int) -> None:
    return
