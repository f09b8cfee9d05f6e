"""Fetching models before jobs come for them, out of everybody's way."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import ClassVar, Protocol

import structlog

from ..errors import NeuronError
from ..models.worker import ModelHint
from ..utils.concurrency import until_first
from ..utils.metrics import WorkerMetrics
from .model_files import ModelFiles
from .service import Service

logger = structlog.get_logger(__name__)

CONNECTIONS = 4
"""What a download may take that nobody waits for; one that jobs wait for takes four times that."""
SPARED_SECONDS = 3600.0
"""A model that was used so lately makes no room for one that nobody has used here yet."""
AFTER_FAILURE_SECONDS = 300.0
"""What could not be fetched is not tried again before."""


class AheadLoader(Protocol):
    """Who downloads; ModelLoaderService is one."""

    async def fetch_ahead(
        self, family: str, version: str, *, spared_seconds: float, connections: int
    ) -> bool: ...


class Prefetcher(Service):
    """Fetches the models that CORTEX names, one at a time, only to the disk.

    It stops as soon as a job waits for any download, and goes on behind it: what has come stays.
    Within the cache's budget it takes free room, and that of models nobody has used for an hour.
    """

    name: ClassVar[str] = "prefetcher"

    def __init__(
        self, loader: AheadLoader, files: ModelFiles, metrics: WorkerMetrics | None = None
    ) -> None:
        super().__init__()
        self._loader = loader
        self._files = files
        self._metrics = metrics
        self._clock = asyncio.get_running_loop().time
        self._hints: list[ModelHint] = []
        self._not_before: dict[ModelHint, float] = {}

    def hint(self, models: Sequence[ModelHint]) -> None:
        """Take what is worth fetching now, the most wanted first; what was named before is void."""
        if models and not self._hints:
            logger.info("prefetch_hinted", models=[model.name for model in models])
        self._hints = list(models)
        now = self._clock()
        self._not_before = {hint: when for hint, when in self._not_before.items() if when > now}
        self._files.changed.notify()

    async def run(self) -> None:
        """Fetch until cancelled."""
        while True:
            hint = self._next()
            if hint is None:
                await self._files.changed.wait()
                continue
            gave_way = await until_first(self._fetch(hint), self._until_in_the_way(hint))
            if gave_way:
                logger.info("prefetch_gave_way", model=hint.name)
                self._count("gave_way")

    def _next(self) -> ModelHint | None:
        now = self._clock()
        due = (hint for hint in self._hints if self._not_before.get(hint, 0.0) <= now)
        return next((hint for hint in due if not self._is_in_the_way(hint)), None)

    def _is_in_the_way(self, hint: ModelHint) -> bool:
        """Whether jobs wait for bytes, or for this very model, which comes faster for them."""
        return self._files.is_downloading or self._files.is_wanted(hint.name)

    async def _until_in_the_way(self, hint: ModelHint) -> None:
        while not self._is_in_the_way(hint):
            await self._files.changed.wait()

    async def _fetch(self, hint: ModelHint) -> None:
        try:
            was_fetched = await self._loader.fetch_ahead(
                hint.family, hint.version, spared_seconds=SPARED_SECONDS, connections=CONNECTIONS
            )
        except Exception as error:  # what nobody waits for never ends the worker
            known = isinstance(error, NeuronError)
            logger.warning(
                "prefetch_failed",
                model=hint.name,
                error=str(error),
                exc_info=None if known else error,
            )
            self._not_before[hint] = self._clock() + AFTER_FAILURE_SECONDS
            self._count("failed")
            return
        self._hints = [other for other in self._hints if other.name != hint.name]
        if was_fetched:
            logger.info("model_prefetched", model=hint.name)
            self._count("done")

    def _count(self, outcome: str) -> None:
        if self._metrics is not None:
            self._metrics.prefetches.labels(outcome).inc()
