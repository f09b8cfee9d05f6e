"""Models that the operator wants resident: loaded at the start, never evicted."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from typing import ClassVar

import structlog

from ..errors import NeuronError
from ..models.job import ModelConfig
from ..runtimes.registry import parse_runtime
from ..utils.retry import Backoff
from .engine import EngineKey
from .engine_pool import EnginePool
from .load_progress import LoadProgress
from .model_loader import ModelCatalogue
from .service import Service

logger = structlog.get_logger(__name__)


class PinnedModels(Service):
    """Keeps NEURON_PINNED_MODELS resident, with the runtime and config that GENOME names.

    One that cannot be loaded is tried again, ever later; jobs for it say why meanwhile. One whose
    engine died is loaded again.
    """

    name: ClassVar[str] = "pinned_models"

    def __init__(
        self, models: Collection[str], catalogue: ModelCatalogue, engines: EnginePool
    ) -> None:
        super().__init__()
        self._models = list(dict.fromkeys(models))
        self._catalogue = catalogue
        self._engines = engines

    async def run(self) -> None:
        """Keep them resident until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            for model in self._models:
                tasks.create_task(self._keep(model), name=f"pinned {model}")

    async def _keep(self, model: str) -> None:
        backoff = Backoff(initial=1.0, maximum=300.0)
        while True:
            try:
                async with self._engines.use(await self._key(model), _nobody) as engine:
                    backoff.reset()
                await engine.wait_closed()
            except NeuronError as error:
                delay = backoff.next_delay()
                logger.error(
                    "pinned_model_not_loaded",
                    model=model,
                    error=error.message,
                    retry_in=round(delay, 1),
                )
                await asyncio.sleep(delay)

    async def _key(self, model: str) -> EngineKey:
        family, _, version = model.partition(":")
        told = (await self._catalogue.get_model(family, version)).get("runtime") or {}
        runtime = told.get("type", "transformers")
        config = ModelConfig(
            family=family, version=version, runtime=runtime, runtime_config=told.get("config") or {}
        )
        return EngineKey.of(config, parse_runtime(runtime))


def _nobody(_: LoadProgress) -> None:
    return
