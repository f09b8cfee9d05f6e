"""Whole fleets in simulated time, from a seed; the same seed gives the same trace, byte for byte.

    python tests/support/fleet_simulation.py --seed 7

prints what happens with seed 7, and at the end which promise was broken, if one was.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from dataclasses import dataclass
from functools import partial
from typing import Any

from lease_mutants import MUTANTS, mutant
from lease_rules import demand
from simulated.books import Books
from simulated.cortex import SimulatedCortex
from simulated.faults import Faults
from simulated.flaws import FLAWS, Flaws
from simulated.network import Network, Weather
from simulated.people import People
from simulated.worker import Disk, Worker
from simulated.world import World

from mnemos.cortex import lease_core
from mnemos.cortex.state_machine import TERMINAL

JOBS = 24
SUBMITTED_WITHIN_SECONDS = 30.0
TROUBLE_SECONDS = 45.0
DRAINED_WITHIN_SECONDS = 600.0
"""After everything has healed, every job must have ended, and been read, by then."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a fleet went through."""

    trace: str
    fired: Counter[str]
    jobs: int
    retried: int
    """Jobs that took more than one attempt."""


class Fleet:
    """CORTEX, some workers, people, and what goes wrong between them."""

    def __init__(self, seed: int, core: Any = lease_core, flaws: Flaws | None = None) -> None:
        self.world = World(seed)
        self._flaws = flaws or Flaws()
        self.books = Books(self.world)
        self.cortex = SimulatedCortex(self.world, core, self.books, self._flaws)
        self.network = Network(self.world, self.cortex, Weather())
        self.people = People(self.world, self.network, self.cortex, self.books)
        self.faults = Faults(self.world, self.network, self.cortex, self._new_worker)

    def _new_worker(self, disk: Disk, name: str) -> Worker:
        return Worker(
            self.world,
            self.network,
            self.cortex,
            self.books,
            disk,
            name=name,
            flaws=self._flaws,
            engine_death=lambda: self.faults.engine_death_share,
        )

    def run(self) -> Outcome:
        """Trouble, then peace, until all is done. Raises BrokenRuleError."""
        self.cortex.start()
        self.faults.start(workers=self.world.random.choice((1, 1, 2, 4, 6)))
        self.people.start(JOBS, SUBMITTED_WITHIN_SECONDS)
        self.world.run(TROUBLE_SECONDS)
        self.faults.heal()
        while not self._is_quiet():
            in_time = self.world.now < TROUBLE_SECONDS + DRAINED_WITHIN_SECONDS
            demand(in_time, "once all is well, everything ends", self._what_is_left())
            self.world.run(self.world.now + 1)
        self.books.check_end(self.people.lines)
        return Outcome(self.trace, self.world.fired, JOBS, self.books.retries)

    @property
    def trace(self) -> str:
        """What has happened so far."""
        return "\n".join(self.world.trace) + "\n"

    def _is_quiet(self) -> bool:
        return (
            self.people.are_done
            and all(one.job.state in TERMINAL for one in self.cortex.ledger.records.values())
            and not any(worker.disk.outbox for worker in self.faults.workers)
        )

    def _what_is_left(self) -> list[str]:
        return [
            f"{job_id} {record.job.state} of {record.job.worker_id}"
            for job_id, record in self.cortex.ledger.records.items()
            if record.job.state not in TERMINAL
        ] + [f"{worker.name} {list(worker.disk.outbox)}" for worker in self.faults.workers]


def simulate(seed: int, core: Any = lease_core, flaws: Flaws | None = None) -> Outcome:
    """Let a fleet go through what the seed holds. Raises what a fleet raises when it is wrong."""
    return Fleet(seed, core, flaws).run()


def command(seed: int) -> str:
    """How to see what happens with a seed."""
    return f"python tests/support/fleet_simulation.py --seed {seed}"


def main() -> int:
    parser = argparse.ArgumentParser(description="Replay a simulated fleet and print its trace.")
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--last", type=int, help="print so many of the last lines only")
    wrong = parser.add_mutually_exclusive_group()
    wrong.add_argument("--mutant", choices=sorted(MUTANTS), help="take a rule out of the core")
    wrong.add_argument(
        "--flaw", choices=sorted(FLAWS), help="let the store or the workers do something wrong"
    )
    options = parser.parse_args()
    replay = partial(_replay, options.seed, options.last)
    if options.mutant is None:
        return replay(lease_core, FLAWS.get(options.flaw))
    with mutant(options.mutant) as core:
        return replay(core, None)


def _replay(seed: int, last: int | None, core: Any, flaws: Flaws | None) -> int:
    fleet = Fleet(seed, core, flaws)
    broken: Exception | None = None
    try:
        fleet.run()
    except Exception as error:  # noqa: BLE001  a mutant may fail in any way
        broken = error
    lines = fleet.trace.splitlines()[-(last or 0) :]
    said = f"broken: {broken!r}" if broken else f"every promise was kept; {dict(fleet.world.fired)}"
    sys.stdout.write("\n".join([*lines, said]) + "\n")
    return int(broken is not None)


if __name__ == "__main__":
    sys.exit(main())
