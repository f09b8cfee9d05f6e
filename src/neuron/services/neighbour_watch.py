"""Whether GENOME and ENGRAM can be reached: known before a job finds out."""

from __future__ import annotations

import asyncio
from typing import ClassVar, Protocol

from ..errors import StorageUnavailableError
from .service import Service

INTERVAL_SECONDS = 30.0


class HealthOfGenome(Protocol):
    """What is asked of GENOME's client."""

    url: str

    async def health_check(self) -> bool: ...


class HealthOfEngram(Protocol):
    """What is asked of ENGRAM's client."""

    async def health_check(self) -> None: ...


class NeighbourWatch(Service):
    """Asks both every half minute; `warnings` says who did not answer. Jobs go on regardless."""

    name: ClassVar[str] = "neighbour_watch"

    def __init__(self, genome: HealthOfGenome, engram: HealthOfEngram) -> None:
        super().__init__()
        self._genome = genome
        self._engram = engram
        self._warnings: dict[str, str] = {}

    @property
    def warnings(self) -> list[str]:
        """One sentence for each neighbour that did not answer when last asked."""
        return list(self._warnings.values())

    async def run(self) -> None:
        """Ask until cancelled."""
        while True:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._ask_genome())
                group.create_task(self._ask_engram())
            await asyncio.sleep(INTERVAL_SECONDS)

    async def _ask_genome(self) -> None:
        if await self._genome.health_check():
            self._warnings.pop("genome", None)
        else:
            self._warnings["genome"] = f"GENOME at {self._genome.url} does not answer"

    async def _ask_engram(self) -> None:
        try:
            await self._engram.health_check()
        except StorageUnavailableError as error:
            self._warnings["engram"] = f"ENGRAM: {error.message}"
        else:
            self._warnings.pop("engram", None)
