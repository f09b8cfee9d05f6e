"""What goes wrong: processes that die or stand still, a net that is cut, a CORTEX that crashes."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from .cortex import SimulatedCortex
from .network import Network, Weather
from .worker import Disk, Worker
from .world import World

NewWorker = Callable[[Disk, str], Worker]


class Faults:
    """Bad luck, until heal(): then all is well, and whoever is down starts."""

    def __init__(
        self, world: World, network: Network, cortex: SimulatedCortex, new_worker: NewWorker
    ) -> None:
        self.engine_death_share = world.random.choice((0.0, 0.01, 0.03))
        self.workers: list[Worker] = []
        self._down: list[tuple[Disk, str]] = []
        self._world = world
        self._network = network
        self._cortex = cortex
        self._new_worker = new_worker
        self._names = 0
        self._ids = 0
        self._are_over = False
        self._every_seconds = world.random.choice((1.5, 2.5, 4.0))
        network.weather = Weather(
            lost=world.random.choice((0.0, 0.02, 0.08)),
            doubled=world.random.choice((0.0, 0.05, 0.15)),
            slow=world.random.choice((0.0, 0.02, 0.06)),
        )

    def start(self, workers: int) -> None:
        """Start the workers, and let things go wrong."""
        for _ in range(workers):
            self._start_worker(Disk(self._new_id()), self._new_name())
        self._next()

    def heal(self) -> None:
        """From now on nothing goes wrong."""
        self._world.note("world", "heals")
        self._are_over = True
        self._network.weather = Weather()
        self._network.cut_off.clear()
        self.engine_death_share = 0.0
        self._cortex.be_spared()
        if not self._cortex.is_up:
            self._cortex.start()
        for worker in list(self.workers):
            worker.wake()
        down, self._down = self._down, []
        for disk, name in down:
            self._start_worker(disk, name)

    def _next(self) -> None:
        self._world.after(self._world.random.expovariate(1 / self._every_seconds), self._happen)

    def _happen(self) -> None:
        if self._are_over:
            return
        deeds = (
            *(self._kill, self._kill, self._pause, self._pause, self._cut, self._cut, self._drain),
            *(self._crash_cortex, self._crash_cortex),
        )
        self._world.random.choice(deeds)()
        self._next()

    def _some_worker(self) -> Worker | None:
        """Rather one that works on something."""
        busy = [worker for worker in self.workers if worker.is_busy]
        pool = busy if busy and self._world.chance(0.7) else self.workers
        return self._world.random.choice(pool) if pool else None

    def _seconds(self) -> float:
        """Mostly less than a lease, often more."""
        return self._world.random.choice((0.3, 2.0, 8.0, 15.0)) * self._world.between(0.5, 1.5)

    def _later(self, seconds: float, deed: Callable[[], None]) -> None:
        self._world.after(seconds, lambda: None if self._are_over else deed())

    # ------------------------------------------------------------ workers

    def _new_id(self) -> str:
        self._ids += 1
        return f"wrk{self._ids}"

    def _new_name(self) -> str:
        self._names += 1
        return f"proc{self._names}"

    def _start_worker(self, disk: Disk, name: str) -> None:
        worker = self._new_worker(disk, name)
        worker.on_killed = partial(self._kill_by_job, worker)
        self.workers.append(worker)
        worker.start()

    def _kill(self) -> None:
        if worker := self._some_worker():
            self._world.fired["worker killed"] += 1
            self._world.note(worker.name, "is killed")
            self._end(worker)

    def _kill_by_job(self, worker: Worker) -> None:
        self._world.fired["worker killed by a job"] += 1
        self._world.note(worker.name, "is killed by a job")
        self._end(worker)
        if self._are_over:
            self._restart_all_down()

    def _end(self, worker: Worker) -> None:
        """Its process is gone; another one begins with its disk."""
        if not worker.alive:
            return
        worker.die()
        self.workers.remove(worker)
        self._suspect(worker)
        disk, next_one = worker.disk, (worker.disk, self._new_name())
        if self._world.chance(0.3):
            self._world.fired["worker started under another id"] += 1
            disk.worker_id = self._new_id()
        else:
            self._world.fired["worker started under its id"] += 1
        self._down.append(next_one)
        self._later(self._seconds() + 0.2, partial(self._start_again, next_one))

    def _start_again(self, one: tuple[Disk, str]) -> None:
        self._down.remove(one)
        self._start_worker(*one)

    def _suspect(self, worker: Worker) -> None:
        """CORTEX may notice that a connection broke."""
        if self._world.chance(0.4):
            self._later(0.3, partial(self._cortex.suspect, worker.disk.worker_id))

    def _pause(self) -> None:
        worker = self._some_worker()
        if worker is None:
            return
        if self._world.chance(0.5):
            self._stop(worker)
        else:
            self._cortex.at_next_lease[worker.disk.worker_id] = partial(self._stop, worker)

    def _stop(self, worker: Worker) -> None:
        if not worker.paused and not self._are_over:
            seconds = self._seconds()
            self._world.fired["worker paused"] += 1
            self._world.note(worker.name, f"stands still for {seconds:.1f} s")
            worker.pause()
            self._later(seconds, partial(self._wake, worker))

    def _wake(self, worker: Worker) -> None:
        self._world.note(worker.name, "goes on")
        worker.wake()

    def _drain(self) -> None:
        worker = self._some_worker()
        if worker and not worker.paused:
            self._world.fired["worker drained"] += 1
            worker.drain()
            self._world.after(self._world.between(0.1, 3), partial(self._end_drained, worker))

    def _end_drained(self, worker: Worker) -> None:
        self._end(worker)
        if self._are_over:
            self._restart_all_down()

    def _restart_all_down(self) -> None:
        down, self._down = self._down, []
        for disk, name in down:
            self._start_worker(disk, name)

    def _cut(self) -> None:
        worker = self._some_worker()
        if worker is None:
            return
        if self._world.chance(0.5):
            self._cut_off(worker)
        else:
            worker.at_next_end = partial(self._cut_off, worker)

    def _cut_off(self, worker: Worker) -> None:
        if self._are_over:
            return
        seconds = self._seconds()
        self._world.fired["worker cut off"] += 1
        self._world.note(worker.name, f"is cut off for {seconds:.1f} s")
        self._network.cut_off.add(worker.name)
        self._suspect(worker)
        self._later(seconds, partial(self._network.cut_off.discard, worker.name))

    # ------------------------------------------------------------ CORTEX

    def _crash_cortex(self) -> None:
        if not self._cortex.is_up:
            return
        if self._world.chance(0.6):
            self._cortex.crash_at_next_request()
        else:
            self._cortex.crash()
        seconds = self._seconds()
        self._later(seconds, self._restart_cortex)

    def _restart_cortex(self) -> None:
        if not self._cortex.is_up:
            self._cortex.start()
