"""What happens to a fleet under load: workers killed and stopped, CORTEX killed."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from cortex_tools import eventually
from fleet import START_SECONDS, Fleet, Replica, Worker
from fleet_load import Load

STOP_SECONDS = (0.3, 3.5)
SHARE = (0.02, 0.9)
"""From which to which part of the load's jobs faults come."""

T = TypeVar("T", Replica, Worker)


@dataclass(frozen=True, slots=True)
class Plan:
    """How often what happens."""

    worker_kills: int = 0
    worker_stops: int = 0
    server_kills: int = 0


@dataclass(frozen=True, slots=True)
class Kill:
    """A worker's end, by the machine's clock."""

    worker_id: str
    at: float


@dataclass(slots=True)
class Happened:
    """What was done."""

    kills: list[Kill] = field(default_factory=list)
    stop_seconds: list[float] = field(default_factory=list)
    server_kills: int = 0


class Faults:
    """Carries a plan out, spread over the load's progress, so that jobs run whenever one comes."""

    def __init__(self, fleet: Fleet, load: Load, plan: Plan, dice: random.Random) -> None:
        self.happened = Happened()
        self._fleet = fleet
        self._load = load
        self._dice = dice
        self._deeds: list[Callable[[asyncio.TaskGroup], Awaitable[None]]] = [
            *[self._kill_worker] * plan.worker_kills,
            *[self._stop_worker] * plan.worker_stops,
            *[self._kill_server] * plan.server_kills,
        ]
        dice.shuffle(self._deeds)

    async def run(self) -> None:
        """Return when all has been done, and all runs again."""
        first, last = (share * len(self._load.tasks) for share in SHARE)
        marks = sorted(self._dice.uniform(first, last) for _ in self._deeds)
        async with asyncio.TaskGroup() as group:
            for mark, deed in zip(marks, self._deeds, strict=True):
                await self._load.reached(int(mark))
                await deed(group)

    async def _kill_worker(self, group: asyncio.TaskGroup) -> None:
        worker = await self._one_that_serves(self._fleet.workers)
        self.happened.kills.append(Kill(worker.worker_id, time.time()))
        self._fleet.kill_worker(worker)
        group.create_task(self._replace(worker), name=f"successor of {worker.worker_id}")

    async def _replace(self, dead: Worker) -> None:
        """The machine starts its worker again, or another machine joins; at once, or later."""
        await asyncio.sleep(self._dice.choice([0.0, self._dice.uniform(0.0, 2.0)]))
        same = self._dice.random() < 0.5
        successor = self._fleet.start_worker(
            dead.slots, dials=dead.dials, worker_id=dead.worker_id if same else None
        )
        await self._fleet.worker_serves(successor)

    async def _stop_worker(self, group: asyncio.TaskGroup) -> None:
        worker = await self._one_that_serves(self._fleet.workers)
        seconds = self._dice.uniform(*STOP_SECONDS)
        self.happened.stop_seconds.append(seconds)
        group.create_task(self._fleet.stop_worker_for(worker, seconds), name="stopped worker")

    async def _kill_server(self, group: asyncio.TaskGroup) -> None:
        replica = await self._one_that_serves(self._fleet.replicas)
        self.happened.server_kills += 1
        group.create_task(self._fleet.restart_replica(replica), name="CORTEX starts again")

    async def _one_that_serves(self, those: Sequence[T]) -> T:
        async def any_serves() -> bool:
            return any(one.serves for one in those)

        await eventually(any_serves, "a process serves", START_SECONDS)
        return self._dice.choice([one for one in those if one.serves])
