"""The plainest of stores: it carries out in memory what the lease core decides, and can forget."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from lease_rules import check_step, demand

from mnemos.cortex.state_machine import TERMINAL, JobState, Outcome

Random = Callable[[], float]


@dataclass(frozen=True, slots=True)
class Attempt:
    """What the books say of one attempt."""

    worker_id: str
    outcome: Outcome | None = None
    reported: bool = False
    suspected: bool = False
    """Whether its lease was cut short since its worker was heard."""


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a job's log: a state, a restart, or a chunk with what it brought."""

    kind: str
    attempt: int
    state: JobState | None = None
    brought: Any = None


@dataclass(slots=True)
class Record:
    """A job and all that is kept with it."""

    job: Any
    log: list[Line] = field(default_factory=list)
    attempts: dict[int, Attempt] = field(default_factory=dict)
    result: Any = None

    @property
    def given_to(self) -> str | None:
        """Whose the present attempt is, or was."""
        attempt = self.attempts.get(self.job.attempt)
        return attempt.worker_id if attempt else None

    @property
    def begun_by_hand(self) -> int:
        """How often an end of the job was followed by another try."""
        states = [line.state for line in self.log if line.state is not None]
        return sum(
            before in TERMINAL and after is JobState.PENDING
            for before, after in itertools.pairwise(states)
        )


@dataclass(frozen=True, slots=True)
class _Saved:
    job: Any
    lines: int
    attempts: Mapping[int, Attempt]
    result: Any


class Ledger:
    """Jobs by their ids. What is done since the last commit() is undone by forget().

    `core` is the lease core, or a mutant of it; every step is held against the rules.
    """

    def __init__(self, core: Any) -> None:
        self.core = core
        self.records: dict[str, Record] = {}
        self._saved: dict[str, _Saved | None] = {}

    @property
    def is_dirty(self) -> bool:
        """Whether a crash now would undo something."""
        return bool(self._saved)

    def add(self, job_id: str, job: Any) -> None:
        """Take a new job."""
        demand(job_id not in self.records, "a job is new once", job_id)
        self._saved[job_id] = None
        self.records[job_id] = Record(job, [Line("state", 0, JobState.PENDING)])

    def apply(
        self,
        job_id: str,
        event: Any,
        *,
        now: float,
        random: Random,
        brought: Any = None,
    ) -> Any:
        """Carry an event out. `brought` are an append's chunks, or a report's result."""
        record = self.records[job_id]
        kind = type(event).__name__
        if kind in {"Append", "Report"}:
            event = replace(event, past=self._past(record, event.attempt))
        before = record.job
        step = self.core.step(before, event, now=now, random=random)
        check_step(before, event, step, record.given_to, now)
        if step.job is before:
            return step
        self._save(job_id, record)
        record.job = step.job
        self._write(record, kind, event, step, brought)
        return step

    def _past(self, record: Record, number: int) -> Any:
        attempt = record.attempts.get(number)
        if attempt is None or attempt.outcome is None:
            return None
        return self.core.PastAttempt(attempt.worker_id, attempt.outcome, attempt.reported)

    def _write(self, record: Record, kind: str, event: Any, step: Any, brought: Any) -> None:
        number = step.job.attempt
        if kind == "Claim":
            record.attempts[number] = Attempt(event.worker_id)
        elif kind == "Renew" and step.job.is_held:
            record.attempts[number] = replace(record.attempts[number], suspected=False)
        elif kind == "Suspect":
            record.attempts[number] = replace(record.attempts[number], suspected=True)
        if step.ended is not None:
            ended = record.attempts[number]
            demand(ended.outcome is None or step.ended.revised, "an attempt ends once", ended, step)
            record.attempts[number] = replace(
                ended, outcome=step.ended.outcome, reported=step.ended.reported
            )
        for line in step.lines:
            state = getattr(line, "state", None)
            record.log.append(Line("state" if state else "restart", line.attempt, state))
        record.log += [Line("chunk", number, None, brought[place]) for place in step.kept]
        if step.forgets:
            record.result = None
        if step.keep is self.core.Keep.WHOLE:
            record.result = brought

    def _save(self, job_id: str, record: Record) -> None:
        if job_id not in self._saved:
            attempts = dict(record.attempts)
            self._saved[job_id] = _Saved(record.job, len(record.log), attempts, record.result)

    def commit(self) -> None:
        """Make durable all that was done."""
        self._saved.clear()

    def forget(self) -> None:
        """Crash: be again what was committed."""
        for job_id, saved in self._saved.items():
            if saved is None:
                del self.records[job_id]
                continue
            record = self.records[job_id]
            record.job, record.result = saved.job, saved.result
            del record.log[saved.lines :]
            record.attempts = dict(saved.attempts)
        self._saved.clear()
