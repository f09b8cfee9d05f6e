"""A drain's clock: jobs finish while they can, and go back as soon as they cannot."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Protocol

import structlog

from ..models.lease import AttemptRef
from .drain_plan import TextProgress, jobs_to_hand_back, reserve_of
from .outcomes import StopReason

logger = structlog.get_logger(__name__)

LOOK_AGAIN_SECONDS = 0.5


class DrainingJob(Protocol):
    """What a drain asks of a running job."""

    ref: AttemptRef

    @property
    def progress(self) -> TextProgress | None: ...

    def stop(self, reason: StopReason) -> None: ...


class Drain:
    """One drain with its deadline, which may come nearer and never goes away."""

    def __init__(self, seconds: float) -> None:
        self._clock = asyncio.get_running_loop().time
        self._until = self._clock() + seconds
        self._reserve = reserve_of(seconds)
        self._sooner = asyncio.Event()

    @property
    def seconds_left(self) -> float:
        """Until the deadline; negative after it."""
        return self._until - self._clock()

    def shorten(self, seconds: float) -> bool:
        """End in `seconds` if that is sooner; return whether it is."""
        if seconds >= self.seconds_left:
            return False
        self._until = self._clock() + seconds
        self._reserve = reserve_of(seconds)
        self._sooner.set()
        return True

    async def hand_back_late(self, jobs: Callable[[], Iterable[DrainingJob]]) -> None:
        """Hand each job back the moment it cannot finish in time; ends when time is over."""
        while self.seconds_left > self._reserve:
            self._hand_back(jobs())
            self._sooner.clear()
            spare = self.seconds_left - self._reserve
            try:
                async with asyncio.timeout(min(LOOK_AGAIN_SECONDS, max(0.0, spare))):
                    await self._sooner.wait()
            except TimeoutError:
                continue
        logger.warning("drain_time_is_over", jobs=sum(1 for _ in jobs()))

    def _hand_back(self, jobs: Iterable[DrainingJob]) -> None:
        running = {job.ref: job for job in jobs}
        progress = {ref: job.progress for ref, job in running.items()}
        for ref in jobs_to_hand_back(progress, self.seconds_left, self._reserve):
            running[ref].stop(StopReason.HANDED_BACK)
