"""A worker, simulated: slots, lease timers, one engine, an outbox on its disk."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from mnemos.cortex.records import Fence
from mnemos.cortex.state_machine import JobState

from .books import Books
from .cortex import Ref, Said, SimulatedCortex
from .flaws import Flaws
from .network import Network
from .spec import LEASE_SECONDS, POISON_DEATHS, Leased, Token
from .world import Deed, Process, Timer, World

SAFETY_SHARE = 0.1
"""The part of a lease that a worker does without, for its clock may be slow."""
CLOCKS_ARE_OFF_BY = 0.02
SLOTS = 2


@dataclass(slots=True)
class Entry:
    """An attempt's tokens, and how it ended, until CORTEX has acknowledged them."""

    ref: Ref
    tokens: list[Token] = field(default_factory=list)
    acknowledged: int = 0
    said: Said | None = None


@dataclass(slots=True)
class Disk:
    """What outlives the process."""

    worker_id: str
    outbox: dict[Ref, Entry] = field(default_factory=dict)


@dataclass(eq=False, slots=True)
class Run:
    """An attempt in a worker's hands."""

    leased: Leased
    entry: Entry
    text: list[Token]
    lease_until: float
    drawn: int = 0
    is_confirmed: bool = False
    is_over: bool = False
    """Whether nothing works on it any more; what it brought may still be on its way."""
    lease_timer: Timer | None = None

    @property
    def job_id(self) -> str:
        return self.leased.job_id

    @property
    def attempt(self) -> int:
        return self.leased.attempt

    @property
    def is_alone(self) -> bool:
        """Whether it has an engine to itself."""
        return self.leased.deaths >= POISON_DEATHS


class Worker(Process):
    """One process; what comes after its death begins with its disk."""

    def __init__(
        self,
        world: World,
        network: Network,
        cortex: SimulatedCortex,
        books: Books,
        disk: Disk,
        *,
        name: str,
        flaws: Flaws,
        engine_death: Callable[[], float],
    ) -> None:
        rate = 1 + world.between(-CLOCKS_ARE_OFF_BY, CLOCKS_ARE_OFF_BY)
        super().__init__(world, name, rate)
        self.disk = disk
        self.runs: dict[Ref, Run] = {}
        self.at_next_end: Deed | None = None
        """What is to happen just before it says how an attempt ended."""
        self.on_killed: Deed = self.die
        """What happens when a job kills it."""
        self._network = network
        self._cortex = cortex
        self._books = books
        self._engine_death = engine_death
        self._flaws = flaws
        self._is_draining = False

    # ------------------------------------------------------------ its own life

    def start(self) -> None:
        """Register; then send what an earlier process left, and ask for jobs."""
        self.world.note(self.name, f"starts as {self.disk.worker_id}")
        self._register()

    def _register(self) -> None:
        request = partial(self._cortex.register, self.disk.worker_id, self.name)
        again = partial(self.after, 0.5, self._register)
        self._network.ask(self, request, self._go, again, steady=True)

    def _go(self, _registered: bool) -> None:
        for entry in list(self.disk.outbox.values()):
            self._deliver(entry)
        self._poll()
        self._renew_all()

    def die(self) -> None:
        """kill -9: the disk alone stays."""
        super().die()
        for run in self.runs.values():
            self._books.ends(self, run)

    def drain(self) -> None:
        """Hand back what has not ended, and take nothing more."""
        self.world.note(self.name, "drains")
        self._is_draining = True
        for run in [run for run in self.runs.values() if not run.is_over]:
            self._hand_back(run)

    def on_wake(self) -> None:
        """Leases that ran out while it stood still are lost before anything else is done."""
        for run in list(self.runs.values()):
            if run.lease_until <= self.clock():
                self._lease_over(run)
        for run in self.runs.values():
            if run.is_confirmed and not run.is_over:
                self._books.check_alone(self, run)

    @property
    def is_busy(self) -> bool:
        """Whether it works on a job."""
        return any(run.is_confirmed and not run.is_over for run in self.runs.values())

    # ------------------------------------------------------------ getting jobs, keeping them

    def _poll(self) -> None:
        again = partial(self.after, self.world.between(0.3, 1.2), self._poll)
        free = SLOTS - sum(not run.is_over for run in self.runs.values())
        if self._is_draining:
            return
        if free <= 0:
            again()
            return
        request = partial(self._cortex.claim, self.disk.worker_id, free)

        def settle(leased: Sequence[Leased]) -> None:
            for one in leased:
                self._hold(one)
            again()

        self._network.ask(self, request, settle, again)

    def _hold(self, leased: Leased) -> None:
        ref = leased.job_id, leased.attempt
        if ref in self.runs or ref in self.disk.outbox:
            return
        entry = self.disk.outbox[ref] = Entry(ref)
        run = self.runs[ref] = Run(leased, entry, list(leased.text), 0.0)
        self._extend(run, self.clock())
        self.after(leased.spec.timeout_seconds, partial(self._time_out, run))
        self._renew([ref])
        if self._flaws.begins_unconfirmed:
            self._confirm(run)

    def _renew_all(self) -> None:
        self.after(LEASE_SECONDS / 3, self._renew_all)
        if self.runs:
            self._renew(list(self.runs))

    def _renew(self, refs: list[Ref]) -> None:
        asked_at = self.clock()
        request = partial(self._cortex.renew, self.disk.worker_id, refs)

        def settle(verdicts: Sequence[Fence]) -> None:
            for ref, verdict in zip(refs, verdicts, strict=True):
                if run := self.runs.get(ref):
                    self._renewed(run, verdict, asked_at)

        self._network.ask(self, request, settle, _nothing)

    def _renewed(self, run: Run, verdict: Fence, asked_at: float) -> None:
        if verdict is Fence.STALE:
            if not run.is_over:
                self._drop(run, "is told that it is stale")
            return
        self._extend(run, asked_at)
        if run.is_over:
            return
        if run.lease_until <= self.clock():
            self._lease_over(run)
        elif verdict is Fence.CANCELLED:
            self._end(run, Said(JobState.CANCELLED, tuple(run.text)))
        elif not run.is_confirmed:
            self._confirm(run)

    def _confirm(self, run: Run) -> None:
        run.is_confirmed = True
        self._begin(run)

    def _extend(self, run: Run, asked_at: float) -> None:
        if run.lease_timer is not None:
            run.lease_timer.cancel()
        run.lease_until = asked_at + LEASE_SECONDS * (1 - SAFETY_SHARE)
        left = max(0.0, run.lease_until - self.clock())
        run.lease_timer = self.after(left, partial(self._lease_over, run))

    def _lease_over(self, run: Run) -> None:
        if not run.is_over and not self._flaws.has_no_lease_timer:
            self.world.fired["worker's own lease timer"] += 1
            self._hand_back(run)

    def _hand_back(self, run: Run) -> None:
        """What it has drawn goes first, should CORTEX hear it."""
        if run.entry.acknowledged < len(run.entry.tokens):
            self._send_tokens(run.entry, run.entry.acknowledged, _nothing)
        self._drop(run, "hands it back")
        request = partial(self._cortex.release, self.disk.worker_id, run.entry.ref)
        self._network.ask(self, request, _nothing_of, _nothing)

    def _drop(self, run: Run, why: str) -> None:
        self._stop(run)
        self.world.note(self.name, f"{run.job_id}/{run.attempt}: {why}")
        self._forget(run.entry)

    # ------------------------------------------------------------ working

    def _begin(self, run: Run) -> None:
        self.world.note(self.name, f"{run.job_id}/{run.attempt}: begins at {len(run.text)}")
        self._books.begins(self, run)
        self._say(run)
        self._draw_soon(run)

    def _say(self, run: Run) -> None:
        ref = run.entry.ref
        request = partial(self._cortex.say, self.disk.worker_id, ref, JobState.EXECUTING)
        self._network.ask(self, request, _nothing_of, _nothing)

    def _draw_soon(self, run: Run) -> None:
        self.after(self.world.between(0.05, 0.6), partial(self._draw, run))

    def _draw(self, run: Run) -> None:
        if run.is_over:
            return
        spec = run.leased.spec
        if len(run.text) < spec.tokens:
            token = spec.token(len(run.text), run.attempt)
            run.text.append(token)
            run.drawn += 1
            run.entry.tokens.append(token)
            self._send_tokens(run.entry, len(run.entry.tokens) - 1)
        if spec.killer and run.drawn == 2:
            self._books.kills(run, self.runs)
            self.on_killed()
        elif (spec.poison and run.drawn == 2) or self.world.chance(self._engine_death()):
            self._engine_dies(run)
        elif run.attempt <= spec.failing_attempts:
            self._end(run, Said(JobState.FAILED, code="out_of_memory", retryable=True))
        elif len(run.text) == spec.tokens:
            self._end(run, Said(JobState.COMPLETED, tuple(run.text)))
        else:
            self._draw_soon(run)

    def _engine_dies(self, run: Run) -> None:
        self.world.fired["engine died"] += 1
        killed = [run]
        if not run.is_alone:
            others = (one for one in self.runs.values() if one.is_confirmed and not one.is_over)
            killed = [one for one in others if not one.is_alone]
        for one in killed:
            said = Said(
                JobState.FAILED, code="engine_crashed", retryable=True, engine_jobs=len(killed)
            )
            self._end(one, said)

    def _time_out(self, run: Run) -> None:
        if not run.is_over:
            self.world.fired["timeout reported"] += 1
            self._end(run, Said(JobState.TIMEOUT, tuple(run.text)))

    def _end(self, run: Run, said: Said) -> None:
        self._stop(run)
        why = f", {said.code}" if said.state is JobState.FAILED else ""
        self.world.note(self.name, f"{run.job_id}/{run.attempt}: ends {said.state}{why}")
        run.entry.said = said
        if self.at_next_end is not None:
            deed, self.at_next_end = self.at_next_end, None
            deed()
        self._deliver(run.entry)

    def _stop(self, run: Run) -> None:
        run.is_over = True
        self._books.ends(self, run)

    # ------------------------------------------------------------ the outbox

    def _deliver(self, entry: Entry) -> None:
        """Send what CORTEX has not acknowledged: tokens first, then how it ended."""
        if entry.ref not in self.disk.outbox:
            return
        early = self._flaws.reports_before_tokens and entry.said is not None
        if entry.acknowledged < len(entry.tokens) and not early:
            self._send_tokens(entry, entry.acknowledged)
        elif entry.said is not None:
            self._send_report(entry, entry.said)
        elif entry.ref not in self.runs:
            self._forget(entry)

    def _send_tokens(self, entry: Entry, first: int, on_failure: Deed | None = None) -> None:
        tokens = tuple(entry.tokens[first:])
        request = partial(self._cortex.append, self.disk.worker_id, entry.ref, first, tokens)

        def settle(answer: tuple[Fence, int]) -> None:
            self._appended(entry, *answer)

        self._network.ask(self, request, settle, on_failure or self._later(entry))

    def _appended(self, entry: Entry, verdict: Fence, position: int) -> None:
        run = self.runs.get(entry.ref)
        if verdict is Fence.STALE:
            if run is not None:
                self._drop(run, "is told that its tokens are stale")
            self._forget(entry)
            return
        self._books.were_appended(*entry.ref, position)
        entry.acknowledged = max(entry.acknowledged, position)
        if run is not None and not run.is_over and verdict is Fence.CANCELLED:
            self._end(run, Said(JobState.CANCELLED, tuple(run.text)))
        elif entry.acknowledged == len(entry.tokens):
            self._deliver(entry)

    def _send_report(self, entry: Entry, said: Said) -> None:
        request = partial(self._cortex.report, self.disk.worker_id, entry.ref, said)

        def settle(verdict: Fence) -> None:
            self._books.was_reported(*entry.ref, said.state, verdict)
            self.world.note(self.name, f"{entry.ref[0]}/{entry.ref[1]}: is told {verdict}")
            self._forget(entry)

        self._network.ask(self, request, settle, self._later(entry))

    def _later(self, entry: Entry) -> Deed:
        def send_again() -> None:
            self.world.fired["sent again from the outbox"] += 1
            self._deliver(entry)

        return lambda: self.after(self.world.between(0.2, 1.0), send_again)

    def _forget(self, entry: Entry) -> None:
        self.disk.outbox.pop(entry.ref, None)
        run = self.runs.pop(entry.ref, None)
        if run is not None and run.lease_timer is not None:
            run.lease_timer.cancel()


def _nothing() -> None:
    """What failed is not tried again, or by and by."""


def _nothing_of(_answer: Any) -> None:
    """The answer does not matter."""
