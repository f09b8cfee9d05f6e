"""Those who submit jobs, follow them, change their minds, and try ended ones again."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from lease_ledger import Line
from lease_rules import demand

from mnemos.cortex.records import Fence
from mnemos.cortex.state_machine import JobState, RetryPolicy

from .books import Books
from .cortex import SimulatedCortex
from .network import Network
from .spec import Spec
from .world import Process, World

CANCELLED_SHARE = 0.2
RETRIED_SHARE = 0.7
"""Of the jobs that ended otherwise than completed, by hand, once."""
RETRIED_IN_VAIN_SHARE = 0.1
"""Of those that completed."""
TROUBLES = (*("none",) * 5, "long", "long", "fails", "fails always", "poison", "killer", "too long")
LENGTHS = {"long": 40, "too long": 200}
"""In tokens; a lease is over while a long one is drawn."""


class People(Process):
    """They keep asking until they are answered."""

    def __init__(
        self, world: World, network: Network, cortex: SimulatedCortex, books: Books
    ) -> None:
        super().__init__(world, "people")
        self.lines: dict[str, list[Line]] = {}
        """What has been read of each job."""
        self._network = network
        self._cortex = cortex
        self._books = books
        self._unfinished = 0
        self._retried: set[str] = set()

    @property
    def are_done(self) -> bool:
        """Whether all they wanted has been answered, and read to its end."""
        return self._unfinished == 0

    def start(self, jobs: int, within_seconds: float) -> None:
        """Submit so many jobs, by and by."""
        for number in range(jobs):
            self._unfinished += 1
            spec = some_spec(self.world, f"key-{number}")
            self.after(self.world.between(0, within_seconds), partial(self._submit, spec))

    def _submit(self, spec: Spec) -> None:
        def settle(job_id: str) -> None:
            self._books.was_submitted(job_id, spec)
            self.lines[job_id] = []
            self._read(job_id)
            if self.world.chance(CANCELLED_SHARE):
                self._unfinished += 1
                self.after(self.world.between(0, 15), partial(self._cancel, job_id))

        again = partial(self._submit, spec)
        self._network.ask(self, partial(self._cortex.submit, spec), settle, again)

    def _cancel(self, job_id: str) -> None:
        def settle(answer: tuple[Fence, int]) -> None:
            self._books.was_cancelled(job_id, *answer)
            self._unfinished -= 1

        again = partial(self._cancel, job_id)
        self._network.ask(self, partial(self._cortex.cancel, job_id), settle, again)

    def _read(self, job_id: str) -> None:
        """Go on after the last line seen."""
        seen = self.lines[job_id]
        again = partial(self._read, job_id)

        def settle(answer: tuple[Sequence[Line], bool]) -> None:
            lines, has_ended = answer
            seen.extend(lines)
            if not has_ended:
                self.after(self.world.between(1, 4), again)
            else:
                self._has_ended(job_id)

        self._network.ask(self, partial(self._cortex.read, job_id, len(seen)), settle, again)

    def _has_ended(self, job_id: str) -> None:
        last = self.lines[job_id][-1]
        demand(last.state is not None, "a log ends with the state of the job", job_id, last)
        is_completed = last.state is JobState.COMPLETED
        share = RETRIED_IN_VAIN_SHARE if is_completed else RETRIED_SHARE
        if job_id not in self._retried and self.world.chance(share):
            self._retried.add(job_id)
            self._retry(job_id)
        else:
            self._unfinished -= 1

    def _retry(self, job_id: str) -> None:
        def settle(_verdict: Any) -> None:
            self._read(job_id)

        again = partial(self._retry, job_id)
        self._network.ask(self, partial(self._cortex.retry, job_id), settle, again)


def some_spec(world: World, key: str) -> Spec:
    """A job; one in some is troublesome."""
    trouble = world.random.choice(TROUBLES)
    policy = RetryPolicy(
        max_retries=world.random.choice((0, 3, 3, 5)),
        initial_backoff_seconds=0.3,
        max_backoff_seconds=4.0,
        retryable_codes=world.random.choice(
            ((), (), (), ("timeout", "engine_crashed", "out_of_memory"))
        ),
    )
    return Spec(
        key=key,
        tokens=LENGTHS.get(trouble) or world.random.randint(3, 12),
        continues=world.chance(0.6),
        streams=world.chance(0.5),
        poison=trouble == "poison",
        killer=trouble == "killer",
        failing_attempts={"fails": 2, "fails always": 99}.get(trouble, 0),
        timeout_seconds=8.0 if trouble == "too long" else 60.0,
        policy=policy,
    )
