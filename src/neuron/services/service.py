"""The one shape of everything that runs in the background."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from typing import ClassVar

import structlog

logger = structlog.get_logger(__name__)


class Service(ABC):
    """A loop with an owner: `start` gives it to a task group, `stop` ends it.

    start() twice warns and changes nothing. stop() tolerates never-started and called-twice; it
    returns when the loop has ended. A loop that raises takes its group down: that is a bug.
    """

    name: ClassVar[str]
    _already_running: ClassVar[str]
    _started: ClassVar[str]
    _stopped: ClassVar[str]

    def __init_subclass__(cls) -> None:
        cls._already_running = f"{cls.name}_already_running"
        cls._started = f"{cls.name}_started"
        cls._stopped = f"{cls.name}_stopped"

    def __init__(self) -> None:
        self.running = False
        self._task: asyncio.Task[None] | None = None

    async def start(self, tasks: asyncio.TaskGroup) -> None:
        """Run the loop in `tasks`."""
        if self.running:
            logger.warning(self._already_running)
            return
        self.running = True
        self._task = tasks.create_task(self.run(), name=self.name)
        logger.info(self._started)

    async def stop(self) -> None:
        """Cancel the loop and wait until it has cleaned up."""
        if not self.running:
            return
        self.running = False
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait({task})
        logger.info(self._stopped)

    @abstractmethod
    async def run(self) -> None:
        """The loop; it ends by cancellation only."""


async def sleep_or_event(event: asyncio.Event, seconds: float) -> bool:
    """Wait until `event` is set, at most `seconds`; return whether it was, and clear it."""
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return False
    event.clear()
    return True
