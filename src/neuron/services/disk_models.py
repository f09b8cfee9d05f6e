"""Which models lie on this worker's disk, as CORTEX is told."""

from __future__ import annotations

import asyncio
from typing import ClassVar, Protocol

import structlog

from mnemos.engram.cache import Entry

from ..errors import NeuronError
from ..models.worker import CachedModel
from .service import Service

logger = structlog.get_logger(__name__)

MOST_MODELS = 64
"""CORTEX is told of no more: of those that were used last."""


class ListedCache(Protocol):
    """Who knows what is here; ModelCache is one. Blocks."""

    def models(self) -> list[Entry]: ...


class DiskModels(Service):
    """Looks every so often what the cache holds, so that a heartbeat need not wait for a disk."""

    name: ClassVar[str] = "disk_models"

    def __init__(self, cache: ListedCache, interval_seconds: float) -> None:
        super().__init__()
        self.models: list[CachedModel] = []
        """What was there when it was looked at last, the most recently used first."""
        self._cache = cache
        self._interval_seconds = interval_seconds

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            await self.run_once()
            await asyncio.sleep(self._interval_seconds)

    async def run_once(self) -> None:
        """Look once; what cannot be read now is taken to be as before."""
        try:
            entries = await asyncio.to_thread(self._cache.models)
        except (NeuronError, OSError) as error:
            logger.warning("cached_models_not_listed", error=str(error))
            return
        self.models = [
            CachedModel(family=entry.family, version=entry.version, digest=entry.digest)
            for entry in entries[:MOST_MODELS]
        ]
