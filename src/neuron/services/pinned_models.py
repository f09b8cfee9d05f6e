"""Models that the operator wants resident: loaded at the start, never evicted."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from typing import ClassVar

import structlog

from ..errors import NeuronError
from ..models.job import ModelConfig
from ..runtimes.registry import parse_runtime
from ..utils.concurrency import until_first
from ..utils.retry import Backoff
from .engine import EngineKey
from .engine_pool import EnginePool
from .load_progress import LoadProgress
from .model_loader import ModelCatalogue
from .service import Service

logger = structlog.get_logger(__name__)


TAG_SECONDS = 30.0
"""How often GENOME is asked what a tag points to."""


class PinnedModels(Service):
    """Keeps NEURON_PINNED_MODELS resident, with the runtime and config that GENOME names.

    One that cannot be loaded is tried again, ever later; jobs for it say why meanwhile. One whose
    engine died is loaded again. One that a tag names follows it: when that is moved, the version
    that it pointed to is like any other model from then on.
    """

    name: ClassVar[str] = "pinned_models"

    def __init__(
        self, models: Collection[str], catalogue: ModelCatalogue, engines: EnginePool
    ) -> None:
        super().__init__()
        self._models = list(dict.fromkeys(models))
        self._catalogue = catalogue
        self._engines = engines
        self._versions: dict[str, str] = {}
        """Which version is pinned for each name: itself, or the one that a tag points to."""

    async def run(self) -> None:
        """Keep them resident until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            for model in self._models:
                tasks.create_task(self._keep(model), name=f"pinned {model}")

    async def _keep(self, model: str) -> None:
        backoff = Backoff(initial=1.0, maximum=300.0)
        while True:
            try:
                key = await self._key(model)
                self._pin(model, key.model)
                async with self._engines.use(key, _nobody) as engine:
                    backoff.reset()
                if key.model == model:
                    await engine.wait_closed()
                else:
                    await until_first(engine.wait_closed(), self._until_moved(model, key))
            except NeuronError as error:
                delay = backoff.next_delay()
                logger.error(
                    "pinned_model_not_loaded",
                    model=model,
                    error=error.message,
                    retry_in=round(delay, 1),
                )
                await asyncio.sleep(delay)

    def _pin(self, name: str, version: str) -> None:
        before = self._versions.get(name)
        self._versions[name] = version
        self._engines.pin(version)
        if before is not None and before not in self._versions.values():
            self._engines.unpin(before)

    async def _until_moved(self, model: str, key: EngineKey) -> None:
        """Return when a tag names another version, or its version another config."""
        while True:
            await asyncio.sleep(TAG_SECONDS)
            try:
                now = await self._key(model)
            except NeuronError as error:
                logger.warning("pinned_tag_not_found", model=model, error=error.message)
                continue
            if now != key:
                logger.info("pinned_tag_moved", model=model, before=key.model, now=now.model)
                return

    async def _key(self, model: str) -> EngineKey:
        family, _, asked = model.partition(":")
        document = await self._catalogue.get_model(family, asked)
        told = document.get("runtime") or {}
        runtime = told.get("type", "transformers")
        config = ModelConfig(
            family=family,
            version=document.get("version") or asked,
            runtime=runtime,
            runtime_config=told.get("config") or {},
        )
        return EngineKey.of(config, parse_runtime(runtime))


def _nobody(_: LoadProgress) -> None:
    return
