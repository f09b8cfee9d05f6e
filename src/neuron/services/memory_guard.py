"""Engines that grow without end are ended before the machine is full."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import ClassVar

import structlog

from ..utils.process_memory import private_bytes
from .memory_budget import RAM, MemoryBudget
from .resident import Resident
from .service import Service

logger = structlog.get_logger(__name__)

CHECK_SECONDS = 0.2
_MIB = 2**20


class MemoryGuard(Service):
    """Compares what engine processes hold of RAM with the budget, several times a second.

    Over it, the engine that outgrew its share the most goes, and its jobs' error says so. The
    kernel would also choose an engine, later and without a word.
    """

    name: ClassVar[str] = "memory_guard"

    def __init__(
        self, residents: Callable[[], Sequence[Resident]], budget: Callable[[], MemoryBudget]
    ) -> None:
        super().__init__()
        self._residents = residents
        self._budget = budget

    async def run(self) -> None:
        """Check until cancelled."""
        while True:
            await asyncio.sleep(CHECK_SECONDS)
            await self.run_once()

    async def run_once(self) -> None:
        """Check now."""
        watched = [(each, each.engine.pid) for each in self._residents()]
        running = [(each, pid) for each, pid in watched if pid is not None]
        if not running:
            return
        held = await asyncio.to_thread(lambda: [private_bytes(pid) // _MIB for _, pid in running])
        limit = self._budget().limits[RAM]
        if sum(held) <= limit:
            return
        shares = [resident.footprint.get(RAM, 0) for resident, _ in running]
        excess = [size - share for size, share in zip(held, shares, strict=True)]
        worst = excess.index(max(excess))
        resident = running[worst][0]
        logger.error("engine_too_large", model=resident.key.model, memory_mb=held[worst])
        resident.engine.condemn(
            f"it grew to {held[worst]} MB, and this worker has {limit} MB of memory for models"
        )
