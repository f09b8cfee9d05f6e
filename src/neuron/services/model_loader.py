"""Model loading and caching service."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import structlog
from opentelemetry import trace

from ..clients.engram_client import RemoteFile
from ..config import Settings
from ..errors import InsufficientResourcesError, NeuronError, StorageUnavailableError
from ..utils.metrics import WorkerMetrics
from .model_cache import Manifest, ModelCache, parse_manifest

logger = structlog.get_logger(__name__)
tracer = trace.get_tracer(__name__)

OnProgress = Callable[[str], None]
OnTransfer = Callable[[int, int], None]
"""Called on the event loop with the bytes that are here, and those of the whole model.

The first call comes when the download begins and names what was here already; it is also called
while another worker of this machine downloads.
"""
_GIB = 1024**3
_SPARE_BYTES = 64 * 1024 * 1024
_LOCK_POLL_SECONDS = 0.25


@dataclass(frozen=True, slots=True)
class ModelInUse:
    """A model that stays on this machine's disk while it is held."""

    path: Path
    """The folder of its files."""
    digest: str
    """The model's digest, "sha256:<hex>" over its files: what GENOME calls artifact.checksum.

    Empty only for files that an older version cached without one, while GENOME is down.
    """


class ModelCatalogue(Protocol):
    """What loading asks of GENOME."""

    async def get_model(self, family: str, version: str) -> dict[str, Any]: ...


class ArtifactStore(Protocol):
    """What loading asks of ENGRAM."""

    async def download_files(
        self,
        object_path: str,
        files: tuple[RemoteFile, ...],
        local_dir: Path,
        on_bytes: Callable[[int], None] | None = None,
        bucket: str | None = None,
    ) -> None: ...


class ModelLoaderService:
    """Brings a model's files to this machine, verified, once for all who ask.

    Cancelling a load leaves nothing behind but what the cache had before.
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
        self.cache = ModelCache(settings.model_cache_dir)
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
            InvalidInputError: names that could lead out of the cache.
            ModelNotFoundError, StorageUnavailableError: GENOME or ENGRAM.
            ArtifactCorruptError: what came is not what the manifest says; nothing is kept.
            InsufficientResourcesError: too big for the settings or the disk.
        """
        self.cache.folder(family, version)
        model_key = f"{family}:{version}"
        with tracer.start_as_current_span("load_model") as span:
            span.set_attribute("model.family", family)
            span.set_attribute("model.version", version)
            async with self._locks.setdefault(model_key, asyncio.Lock()):
                return await self._load(
                    family, version, model_key, on_progress or _nobody, on_transfer
                )

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
        path = await self.load_model(family, version, on_progress, on_transfer)
        yield ModelInUse(path, await self.digest(family, version) or "")

    async def digest(self, family: str, version: str) -> str | None:
        """Return the digest of the model as it lies in the cache; None if it does not.

        Asks the disk, not GENOME. Raises InvalidInputError for names that cannot be.
        """
        return await asyncio.to_thread(self.cache.digest, f"{family}:{version}")

    async def _load(
        self,
        family: str,
        version: str,
        model_key: str,
        on_progress: OnProgress,
        on_transfer: OnTransfer | None,
    ) -> Path:
        try:
            metadata = await self._fetch_metadata(family, version)
        except StorageUnavailableError as error:
            return await self._cached_or_raise(model_key, error)
        manifest = parse_manifest(metadata, family, version)
        if cached := await asyncio.to_thread(self.cache.get, model_key, manifest.digest):
            logger.info("model_cache_hit", model=model_key, path=str(cached))
            return cached
        logger.info("model_cache_miss", model=model_key, message="Downloading from storage")
        async with self._only_process(model_key, on_progress):
            if cached := await asyncio.to_thread(self.cache.get, model_key, manifest.digest):
                return cached
            path = await self._download_model(model_key, manifest, on_progress, on_transfer)
        logger.info("model_loaded", model=model_key, path=str(path))
        return path

    async def _cached_or_raise(self, model_key: str, error: StorageUnavailableError) -> Path:
        cached = await asyncio.to_thread(self.cache.get, model_key)
        if cached is None:
            raise error
        logger.warning("genome_down_using_cache", model=model_key, error=error.message)
        return cached

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
        model_key: str,
        manifest: Manifest,
        on_progress: OnProgress,
        on_transfer: OnTransfer | None,
    ) -> Path:
        await asyncio.to_thread(self._check_room, model_key, manifest)
        logger.info("downloading_model", model=model_key, size_mb=manifest.total_bytes // 2**20)
        staging = await asyncio.to_thread(self.cache.new_staging)
        progress = _Progress(manifest.total_bytes, on_progress, on_transfer, self._metrics)
        try:
            await self.engram_client.download_files(
                manifest.artifact_path,
                manifest.files,
                staging,
                progress.add,
                manifest.bucket or None,
            )
            path = await asyncio.to_thread(self.cache.set, model_key, staging, manifest)
        except NeuronError as error:
            logger.error("download_model_failed", model=model_key, error=error.message)
            raise
        finally:
            await asyncio.shield(
                asyncio.get_running_loop().run_in_executor(
                    None, lambda: shutil.rmtree(staging, ignore_errors=True)
                )
            )
        logger.info("model_downloaded", model=model_key, size_mb=manifest.total_bytes // 2**20)
        return path

    def _check_room(self, model_key: str, manifest: Manifest) -> None:
        size = manifest.total_bytes
        limit = self.settings.max_model_size_gb
        if size > limit * _GIB:
            raise InsufficientResourcesError(
                f"{model_key} takes {size / _GIB:.1f} GiB, and this worker's"
                f" NEURON_MAX_MODEL_SIZE_GB is {limit:g}"
            )
        self.cache.cache_dir.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(self.cache.cache_dir).free
        if size + _SPARE_BYTES > free:
            raise InsufficientResourcesError(
                f"{model_key} takes {size / _GIB:.1f} GiB, and {self.cache.cache_dir}"
                f" has {free / _GIB:.1f} GiB free"
            )

    @asynccontextmanager
    async def _only_process(self, model_key: str, on_progress: OnProgress) -> AsyncIterator[None]:
        """Hold the model's lock among the processes that share the cache."""
        told = False
        while True:
            with ExitStack() as stack:
                if stack.enter_context(self.cache.try_lock(model_key)):
                    yield
                    return
            if not told:
                told = True
                on_progress("another worker on this machine downloads the model")
            await asyncio.sleep(_LOCK_POLL_SECONDS)  # flock has no event to wait for


class _Progress:
    """Counts bytes and speaks at each whole percent."""

    def __init__(
        self,
        total: int,
        tell: OnProgress,
        transferred: OnTransfer | None,
        metrics: WorkerMetrics | None,
    ) -> None:
        self._total = max(1, total)
        self._tell = tell
        self._transferred = transferred
        self._metrics = metrics
        self._done = 0
        self._told = -1

    def add(self, count: int) -> None:
        self._done += count
        if self._metrics is not None:
            self._metrics.download_bytes.inc(count)
        percent = min(100, 100 * self._done // self._total)
        if percent != self._told:
            self._told = percent
            self._tell(f"downloading the model, {percent} %")
            if self._transferred is not None:
                self._transferred(self._done, self._total)


def _nobody(_: str) -> None:
    return
