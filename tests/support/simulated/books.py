"""What everybody was told, and whether it was kept."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from lease_ledger import Ledger, Line
from lease_rules import demand

from mnemos.cortex.records import Fence
from mnemos.cortex.state_machine import TERMINAL, JobState, Outcome

from .spec import LEASE_SECONDS, Spec, check_text, text_of

if TYPE_CHECKING:
    from .worker import Run, Worker
    from .world import World

ENGINES_A_POISON_MAY_KILL = 3
WORKERS_A_JOB_MAY_KILL = 3
ROUNDING_SECONDS = 1e-6


class Books:
    """Raises BrokenRuleError as soon as a promise is broken, or in check_end()."""

    ledger: Ledger

    def __init__(self, world: World) -> None:
        self._world = world
        self._cortex_started_at = 0.0
        self._submitted: dict[str, tuple[str, Spec]] = {}
        self._cancelled: set[tuple[str, int]] = set()
        self._reported: dict[tuple[str, int], Fence] = {}
        self._chunks: dict[tuple[str, int], int] = {}
        self._heard_at: dict[str, float] = {}
        self._working: dict[str, list[tuple[Worker, Run]]] = {}
        self._deaths: dict[tuple[str, int], set[int]] = {}
        self._killed_by: dict[tuple[str, int], tuple[str, int]] = {}
        """Attempts whose worker was killed, and the job that did it; by hand it begins anew."""
        self.claims = 0
        self.retries = 0

    # ------------------------------------------------------------ what CORTEX does

    def cortex_started(self) -> None:
        """From now on nobody's lease may run out for a whole lease."""
        self._cortex_started_at = self._world.now

    def did(self, job_id: str, spec: Spec, before: Any, event: Any, step: Any) -> None:
        """Look at a step that CORTEX did."""
        kind, fired = type(event).__name__, self._world.fired
        record = self.ledger.records[job_id]
        if step.verdict is Fence.STALE:
            fired[f"stale {kind}"] += 1
        elif step.verdict is Fence.DUPLICATE:
            fired[f"repeated {kind}"] += 1
        if step.job is before:
            return
        if kind in {"Claim", "Renew", "Grace"}:
            self._heard_at[job_id] = self._world.now
        if kind == "Claim":
            fired["restart line"] += len(step.lines) - 1
        elif kind == "Append":
            fired["late chunks"] += before.state is JobState.PENDING
            check_text(spec, text_of(record.log), whole=False, what="the stream")
        elif kind == "LeaseCheck":
            fired["lease over"] += 1
            self._check_grace(job_id, before, record.attempts[before.attempt].suspected)
        elif kind == "Report":
            self._look_at_report(job_id, spec, before, event, step)
        elif kind != "Renew":
            fired[f"{kind}{' while held' if kind == 'Cancel' and before.is_held else ''}"] += 1
        if step.ended is not None and step.ended.outcome is Outcome.LOST:
            self._check_blame(job_id, step.job)
        if before.cancel_requested and step.job.state in TERMINAL:
            fired[f"told to stop, ended by {kind}"] += 1

    def has_reaped(self, every_seconds: float) -> None:
        """CORTEX has looked at all leases, as it does every so many seconds."""
        longest = LEASE_SECONDS + every_seconds + ROUNDING_SECONDS
        for job_id, record in self.ledger.records.items():
            if record.job.is_held:
                unheard = self._world.now - self._heard_at[job_id]
                demand(unheard <= longest, "a silent worker loses its job", job_id, record.job)

    def _check_grace(self, job_id: str, before: Any, suspected: bool) -> None:
        since = self._world.now - self._cortex_started_at
        demand(
            since > LEASE_SECONDS - ROUNDING_SECONDS or self._cortex_started_at == 0 or suspected,
            "after a restart no lease runs out before a whole lease has passed",
            job_id,
            before,
            f"{since:.3f} s",
        )

    def _check_blame(self, job_id: str, job: Any) -> None:
        """A job that kills workers is stopped, and none of its neighbours with it."""
        tries = range(job.void_attempts + 1, job.attempt + 1)
        blamed = [self._killed_by.get((job_id, attempt)) for attempt in tries]
        itself = job_id, job.void_attempts
        kills = blamed.count(itself)
        demand(kills <= WORKERS_A_JOB_MAY_KILL, "who kills workers is stopped", job_id, blamed)
        if job.state is JobState.FAILED and job.policy.max_retries:
            others = {name: blamed.count(name) for name in set(blamed) - {None, itself}}
            demand(
                all(count < WORKERS_A_JOB_MAY_KILL for count in others.values()),
                "a job is not parked for what one neighbour did",
                *(job_id, blamed),
            )
            self._world.fired["parked for lost workers"] += 1

    def _look_at_report(self, job_id: str, spec: Spec, before: Any, event: Any, step: Any) -> None:
        record = self.ledger.records[job_id]
        if step.job.state is JobState.COMPLETED:
            self._world.fired["completed"] += 1
            self._world.fired["completed late"] += before.state is JobState.PENDING
            check_text(spec, record.result, whole=True, what="the result")
            if record.attempts[event.attempt].outcome is Outcome.COMPLETED:
                check_text(spec, text_of(record.log), whole=True, what="the stream at its end")
        if spec.poison and event.error_code == "engine_crashed":
            killers = self._deaths.setdefault((job_id, record.begun_by_hand), set())
            killers.add(event.attempt)
            few = len(killers) <= ENGINES_A_POISON_MAY_KILL
            demand(few, "poison is stopped", job_id, killers)
            self._world.fired["poison killed an engine"] += 1

    # ------------------------------------------------------------ what people were told

    def was_submitted(self, job_id: str, spec: Spec) -> None:
        """A submitter was told that its job is taken."""
        self._submitted[spec.key] = job_id, spec

    def was_cancelled(self, job_id: str, verdict: Fence, begun_by_hand: int) -> None:
        """A submitter was told that its job is cancelled, or will be."""
        if verdict is not Fence.STALE:
            self._cancelled.add((job_id, begun_by_hand))

    # ------------------------------------------------------------ what workers were told

    def was_reported(self, job_id: str, attempt: int, state: JobState, verdict: Fence) -> None:
        """A worker was told what became of its report."""
        if state is JobState.COMPLETED and verdict in {Fence.ACCEPTED, Fence.DUPLICATE}:
            self._reported[job_id, attempt] = verdict

    def were_appended(self, job_id: str, attempt: int, position: int) -> None:
        """A worker was told that CORTEX has so many of an attempt's chunks."""
        known = self._chunks.get((job_id, attempt), 0)
        self._chunks[job_id, attempt] = max(known, position)

    def begins(self, worker: Worker, run: Run) -> None:
        """A worker lets an engine work on a job."""
        self._working.setdefault(run.job_id, []).append((worker, run))
        self.check_alone(worker, run)

    def check_alone(self, worker: Worker, run: Run) -> None:
        """Nobody else believes that it may work on the job: CORTEX suspected it, if anybody."""
        for other, its_run in self._working.get(run.job_id, ()):
            if its_run is run or not other.alive or other.paused:
                continue
            attempt = self.ledger.records[run.job_id].attempts[its_run.attempt]
            own = self.ledger.records[run.job_id].attempts[run.attempt]
            if attempt.suspected or own.suspected:
                self._world.fired["two worked, one of them suspected"] += 1
                continue
            names = f"{worker.name}/{run.attempt}", f"{other.name}/{its_run.attempt}"
            demand(False, "one worker at a time works on a job", run.job_id, *names)

    def ends(self, worker: Worker, run: Run) -> None:
        """A worker lets no engine work on a job any more."""
        pairs = self._working.get(run.job_id, [])
        if (worker, run) in pairs:
            pairs.remove((worker, run))

    def kills(self, run: Run, runs: Mapping[tuple[str, int], Run]) -> None:
        """A job kills its worker, and with it all that the worker was doing."""
        void = self.ledger.records[run.job_id].job.void_attempts
        for ref in runs:
            self._killed_by[ref] = run.job_id, void if run.attempt > void else -1

    # ------------------------------------------------------------ what is so at the end

    def check_end(self, readers: dict[str, list[Line]]) -> None:
        """All is quiet: every promise must have been kept."""
        by_id = dict(self._submitted.values())
        demand(len(by_id) == len(self._submitted), "each key has a job of its own", by_id)
        for job_id, spec in by_id.items():
            demand(job_id in self.ledger.records, "no acknowledged job is lost", job_id, spec.key)
            self._check_job(job_id, spec)
        demand(set(self.ledger.records) == set(by_id), "nobody's job is there", by_id)
        for job_id, lines in readers.items():
            log = self.ledger.records[job_id].log
            unread = log[len(lines) :]
            # A repeated retry by hand may have come when the reader had seen the end.
            read = log[: len(lines)] == lines and (not unread or _begins_by_hand(lines, unread))
            demand(read, "a reader has seen every line once", job_id, lines, log)
        for (job_id, attempt), verdict in self._reported.items():
            record = self.ledger.records[job_id]
            ended = record.attempts[attempt]
            kept = record.job.state is JobState.COMPLETED and record.job.attempt == attempt
            demand(
                ended.reported and (kept or ended.outcome is Outcome.CANCELLED),
                "an accepted result stays, unless the job was to stop",
                *(job_id, attempt, verdict, ended, record.job),
            )
        for (job_id, attempt), count in self._chunks.items():
            log = self.ledger.records[job_id].log
            there = sum(line.kind == "chunk" and line.attempt == attempt for line in log)
            demand(there >= count, "an acknowledged token stays", job_id, attempt, count, there)
        for job_id, begun in self._cancelled:
            record = self.ledger.records[job_id]
            completed = record.job.state is JobState.COMPLETED and record.begun_by_hand == begun
            demand(not completed, "what was cancelled does not complete", job_id, record.job)

    def _check_job(self, job_id: str, spec: Spec) -> None:
        record = self.ledger.records[job_id]
        job = record.job
        demand(job.state in TERMINAL, "every job ends", job_id, job)
        completions = sum(line.state is JobState.COMPLETED for line in record.log)
        outcomes = [one.outcome for one in record.attempts.values()]
        demand(None not in outcomes, "every attempt ends", job_id, record.attempts)
        wanted = int(job.state is JobState.COMPLETED)
        demand(completions == wanted, "a job completes once", job_id, record.log)
        demand(outcomes.count(Outcome.COMPLETED) == wanted, "by one attempt", job_id, outcomes)
        demand(list(record.attempts) == list(range(1, job.attempt + 1)), "attempts count", job_id)
        demand((record.result is not None) == bool(wanted), "one result", job_id, record.result)
        if wanted:
            check_text(spec, record.result, whole=True, what="the result")
            demand(list(record.result) == text_of(record.log), "the stream is the result", job_id)
        self.claims += job.attempt
        self.retries += job.attempt > 1


def _begins_by_hand(lines: list[Line], unread: list[Line]) -> bool:
    return lines[-1].state in TERMINAL and unread[0].state is JobState.PENDING
