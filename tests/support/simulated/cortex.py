"""CORTEX, simulated: a table over the lease core that is durable once committed, and a reaper."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lease_ledger import Ledger, Line, Record
from lease_rules import demand

from mnemos.cortex.records import Fence
from mnemos.cortex.state_machine import (
    APART_SECONDS,
    MAX_LOST_WORKERS,
    TERMINAL,
    JobState,
    runs_apart,
)

from .books import Books
from .flaws import Flaws
from .network import Reply, Request
from .spec import (
    DEADLINE_GRACE_SECONDS,
    LEASE_SECONDS,
    SUSPECT_SECONDS,
    Leased,
    Spec,
    Token,
    text_of,
)
from .world import Deed, Process, Timer, World

REAP_SECONDS = 0.5

Ref = tuple[str, int]
"""A job and an attempt."""


@dataclass(frozen=True, slots=True)
class Said:
    """How a worker says that an attempt ended."""

    state: JobState
    text: tuple[Token, ...] = ()
    code: str = "internal"
    retryable: bool = False
    engine_jobs: int = 0


class SimulatedCortex:
    """Does requests one by one and answers when they are durable, many with one commit."""

    def __init__(self, world: World, core: Any, books: Books, flaws: Flaws) -> None:
        self.core = core
        self.ledger = Ledger(core)
        self.specs: dict[str, Spec] = {}
        self._world = world
        self._books = books
        self._flaws = flaws
        self._process = Process(world, "cortex")
        self._ids: dict[str, str] = {}
        self._instances: dict[str, str] = {}
        self._durable_instances: dict[str, str] = {}
        self._unanswered: list[tuple[Reply, Any]] = []
        self._commit_timer: Timer | None = None
        self.at_next_lease: dict[str, Deed] = {}
        """What is to happen to a worker just when it is given a job."""
        self._given_at: dict[str, float] = {}
        self._crash_soon = False
        self._is_spared = False
        books.ledger = self.ledger

    # ------------------------------------------------------------ its own life

    @property
    def is_up(self) -> bool:
        return self._process.alive

    def start(self) -> None:
        """Serve: everybody whom it remembers to hold a job is given a lease of grace."""
        self._process = Process(self._world, "cortex")
        self._world.note("cortex", "starts")
        self._books.cortex_started()
        if not self._flaws.gives_no_grace:
            for job_id, record in self.ledger.records.items():
                if record.job.is_held:
                    self._do(job_id, self.core.Grace(LEASE_SECONDS))
        self._commit()
        self._world.after(REAP_SECONDS, self._reap, self._process)

    def crash_at_next_request(self) -> None:
        """Die with something that is not durable yet."""
        self._crash_soon = True

    def crash(self) -> None:
        """Forget whatever is not durable."""
        if self._is_spared:
            return
        world = self._world
        world.fired["CORTEX crashed"] += 1
        if self.ledger.is_dirty:
            world.fired["CORTEX crashed with something uncommitted"] += 1
        world.note("cortex", "crashes")
        self._process.die()
        self._crash_soon = False
        self._unanswered.clear()
        self._commit_timer = None
        self.ledger.forget()
        self._instances = dict(self._durable_instances)
        self._ids = {key: one for key, one in self._ids.items() if one in self.ledger.records}

    def be_spared(self) -> None:
        """It does not crash any more."""
        self._is_spared = True

    def receive(self, request: Request, reply: Reply) -> None:
        """Do what is asked, unless it is down."""
        if not self.is_up:
            self._world.fired["CORTEX was down for a message"] += 1
            return
        answer = request()
        if self._flaws.answers_early:
            reply(answer)
        else:
            self._unanswered.append((reply, answer))
        self._commit_soon()
        if self._crash_soon:
            self._crash_soon = False
            self._world.after(0.0005, self.crash, self._process)

    def _commit_soon(self) -> None:
        if self._commit_timer is None:
            delay = self._world.between(0.002, 0.02)
            self._commit_timer = self._world.after(delay, self._commit, self._process)

    def _commit(self) -> None:
        self._commit_timer = None
        self.ledger.commit()
        self._durable_instances = dict(self._instances)
        unanswered, self._unanswered = self._unanswered, []
        for reply, answer in unanswered:
            reply(answer)

    def _reap(self) -> None:
        self._world.after(REAP_SECONDS, self._reap, self._process)
        for job_id, record in self.ledger.records.items():
            if record.job.is_held:
                self._do(job_id, self.core.LeaseCheck())
            if record.job.is_held:
                self._do(job_id, self.core.DeadlineCheck(DEADLINE_GRACE_SECONDS))
        self._books.has_reaped(REAP_SECONDS)
        if self.ledger.is_dirty:
            self._commit_soon()

    def _do(self, job_id: str, event: Any, brought: Any = None) -> Any:
        demand(job_id in self.ledger.records, "a job that somebody was told of is there", job_id)
        before = self.ledger.records[job_id].job
        step = self.ledger.apply(
            job_id, event, now=self._world.now, random=self._world.random.random, brought=brought
        )
        self._note(job_id, before, event, step)
        self._books.did(job_id, self.specs[job_id], before, event, step)
        return step

    def _note(self, job_id: str, before: Any, event: Any, step: Any) -> None:
        kind, job = type(event).__name__, step.job
        if step.verdict is Fence.STALE:
            of = getattr(event, "attempt", "-")
            self._world.note("cortex", f"{kind} {job_id}/{of}: stale")
        elif job is not before and kind != "Renew":
            what = f"has {job.next_chunk} chunks" if kind == "Append" else str(job.state)
            said = f"{kind} {job_id}/{job.attempt}: {step.verdict}, {what}"
            self._world.note("cortex", said)

    # ------------------------------------------------------------ what people ask

    def submit(self, spec: Spec) -> str:
        """Take a job; the same key gives the same job."""
        if spec.key not in self._ids:
            job_id = f"job-{len(self.ledger.records)}"
            self._ids[spec.key] = job_id
            self.specs[job_id] = spec
            self.ledger.add(
                job_id,
                self.core.Job(
                    available_at=self._world.now,
                    timeout_seconds=spec.timeout_seconds,
                    policy=spec.policy,
                    streams=spec.streams,
                ),
            )
            self._world.note("cortex", f"takes {spec.key} as {job_id}")
        return self._ids[spec.key]

    def cancel(self, job_id: str) -> tuple[Fence, int]:
        """And how often the job had been begun by hand."""
        step = self._do(job_id, self.core.Cancel())
        return step.verdict, self.ledger.records[job_id].begun_by_hand

    def retry(self, job_id: str) -> Fence:
        """Begin an ended job anew."""
        verdict: Fence = self._do(job_id, self.core.RetryByHand()).verdict
        return verdict

    def read(self, job_id: str, after: int) -> tuple[list[Line], bool]:
        """The lines of its log from there on, and whether it has ended."""
        record = self.ledger.records[job_id]
        return record.log[after:], record.job.state in TERMINAL

    # ------------------------------------------------------------ what workers ask

    def register(self, worker_id: str, instance: str) -> bool:
        """A process says that it is this worker; one that was so before is gone."""
        before = self._instances.get(worker_id)
        self._instances[worker_id] = instance
        if before not in {None, instance}:
            for job_id in self._held_by(worker_id):
                self._do(job_id, self.core.WorkerGone("it started anew"))
        return True

    def suspect(self, worker_id: str) -> None:
        """Its connection broke."""
        if self.is_up:
            for job_id in self._held_by(worker_id):
                self._do(job_id, self.core.Suspect(SUSPECT_SECONDS))
            self._commit_soon()

    def _held_by(self, worker_id: str) -> list[str]:
        return [
            job_id
            for job_id, record in self.ledger.records.items()
            if record.job.is_held and record.job.worker_id == worker_id
        ]

    def claim(self, worker_id: str, slots: int) -> list[Leased]:
        """Jobs for a worker, the oldest first."""
        due = [
            (job_id, record)
            for job_id, record in self.ledger.records.items()
            if record.job.state is JobState.PENDING and record.job.available_at <= self._world.now
        ]
        if due and worker_id in self.at_next_lease:
            self._world.after(0, self.at_next_lease.pop(worker_id))
        if not self._flaws.mixes_suspects:
            due = self._with_one_suspect(worker_id, due)
        return [self._lease(worker_id, job_id, record) for job_id, record in due[:slots]]

    def _with_one_suspect(
        self, worker_id: str, due: Sequence[tuple[str, Record]]
    ) -> list[tuple[str, Record]]:
        """Those that may run beside one another, and what the worker has."""
        since = self._world.now - APART_SECONDS
        held = [one for one in self._held_by(worker_id) if self._given_at[one] > since]
        has_one = any(_is_suspect(self.ledger.records[one]) for one in held)
        suspects = [job_id for job_id, record in due if _is_suspect(record)]
        left_out = set(suspects if has_one else suspects[1:])
        self._world.fired["suspect left for another worker"] += len(left_out)
        return [(job_id, record) for job_id, record in due if job_id not in left_out]

    def _lease(self, worker_id: str, job_id: str, record: Record) -> Leased:
        self._given_at[job_id] = self._world.now
        spec, job = self.specs[job_id], record.job
        is_void = not spec.continues or (job.attempt == job.void_attempts)
        begins_again = bool(text_of(record.log)) and is_void
        step = self._do(job_id, self.core.Claim(worker_id, LEASE_SECONDS, begins_again))
        text = tuple(text_of(record.log))
        if text:
            self._world.fired["attempt went on after another's tokens"] += 1
        return Leased(job_id, step.job.attempt, spec, text, step.job.engine_crashes)

    def renew(self, worker_id: str, refs: Sequence[Ref]) -> list[Fence]:
        """Its attempts go on."""
        return [
            self._do(job_id, self.core.Renew(worker_id, attempt, LEASE_SECONDS)).verdict
            for job_id, attempt in refs
        ]

    def say(self, worker_id: str, ref: Ref, state: JobState) -> Fence:
        """An attempt has got so far."""
        verdict: Fence = self._do(ref[0], self.core.Say(worker_id, ref[1], state)).verdict
        return verdict

    def append(
        self, worker_id: str, ref: Ref, first: int, tokens: Sequence[Token]
    ) -> tuple[Fence, int]:
        """Chunks of an attempt, from its `first`; how many of them are in the log now."""
        job_id, attempt = ref
        numbers = tuple(range(first, first + len(tokens)))
        step = self._do(job_id, self.core.Append(worker_id, attempt, numbers), tokens)
        return step.verdict, 0 if step.verdict is Fence.STALE else step.job.next_chunk

    def report(self, worker_id: str, ref: Ref, said: Said) -> Fence:
        """An attempt has ended."""
        job_id, attempt = ref
        event = self.core.Report(
            worker_id,
            attempt,
            state=said.state,
            error_code=said.code,
            error="it failed",
            retryable=said.retryable,
            engine_jobs=said.engine_jobs,
        )
        verdict: Fence = self._do(job_id, event, said.text).verdict
        return verdict

    def release(self, worker_id: str, ref: Ref) -> Fence:
        """An attempt is handed back."""
        verdict: Fence = self._do(ref[0], self.core.Release(worker_id, ref[1])).verdict
        return verdict


def _is_suspect(record: Record) -> bool:
    return runs_apart(record.job.lost_workers, MAX_LOST_WORKERS)
