"""Hypothesis drives the lease core and its plain reference through the same lives, and compares."""

from __future__ import annotations

from collections import Counter
from typing import Any

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from lease_ledger import Ledger
from lease_reference import ENDED, HELD, ReferenceCortex

from mnemos.cortex.records import Fence
from mnemos.cortex.state_machine import JobState, RetryPolicy

JOBS = ("one", "two", "three")
WORKERS = ("ann", "bob", "cyd")
LEASE_SECONDS = 15.0
GRACE_SECONDS = 10.0
SUSPECT_SECONDS = 3.0
TIMEOUT_SECONDS = 60.0

ALWAYS_SAID = (
    "state",
    "attempt",
    "worker",
    "chunks",
    "lease",
    "deadline",
    "retries",
    "deaths",
    "lost",
    "code",
)
Ref = tuple[str, str, int]
"""A job, whom an attempt at it was given to, and the attempt."""

workers = st.sampled_from(WORKERS)
codes = st.sampled_from(("internal", "engine_crashed", "out_of_memory"))
max_retries = st.sampled_from((9, 2, 1, 1, 0))
named_codes = st.sampled_from(((), (), ("timeout",), ("internal", "engine_crashed")))
chunks = st.sampled_from(((0,), (0, 1), (0, 1, 2), (1, 0), (-1, 0), (0, 0, 1), (0, 2), (-1,), ()))
"""Their numbers, from the next one on."""
impostors = st.sampled_from((None, None, None, *WORKERS))
"""Who speaks of an attempt: mostly its own worker."""


class LeaseMachine(RuleBasedStateMachine):
    """Three jobs, three workers, all their attempts: the present ones, the stale and the late."""

    core: Any
    seen: Counter[str]
    """How often an event of each kind did something; those of attempts given up apart."""

    def __init__(self) -> None:
        super().__init__()
        self.ledger = Ledger(self.core)
        self.words = ReferenceCortex()
        self.now = 0.0
        self.deeds_of_people = 0
        self.refs: list[Ref] = []
        """Every attempt there ever was."""
        self.promised: set[tuple[str, int]] = set()
        """Jobs, and how often they had been begun by hand, whose cancelling was acknowledged."""

    @initialize(
        options=st.tuples(*(st.tuples(max_retries, named_codes, st.booleans()) for _ in JOBS))
    )
    def submit(self, options: tuple[tuple[int, tuple[str, ...], bool], ...]) -> None:
        for job_id, (retries, names, streams) in zip(JOBS, options, strict=True):
            policy = RetryPolicy(max_retries=retries, retryable_codes=names)
            job = self.core.Job(timeout_seconds=TIMEOUT_SECONDS, policy=policy, streams=streams)
            self.ledger.add(job_id, job)
            self.words.submit(
                job_id,
                max_retries=retries,
                codes=names,
                timeout=TIMEOUT_SECONDS,
                streams=streams,
            )

    def do(self, job_id: str, event: Any, brought: Any = None) -> str:
        before = self.ledger.records[job_id].job
        luck = self.words.luck
        step = self.ledger.apply(job_id, event, now=self.now, random=lambda: luck, brought=brought)
        if step.job is not before:
            kind = type(event).__name__
            late = before.state is JobState.PENDING and kind in {"Append", "Report"}
            self.seen[f"late {kind}" if late else kind] += 1
        elif step.verdict is Fence.STALE:
            self.seen[f"stale {type(event).__name__}"] += 1
        return str(step.verdict)

    def has_pending(self) -> bool:
        return any(told["state"] == "pending" for told in self.words.jobs.values())

    def has_refs(self) -> bool:
        return bool(self.refs)

    def some_ref(self, data: st.DataObject) -> Ref:
        """An attempt and who speaks of it: mostly one that counts, or did a moment ago."""
        going_on = [ref for ref in self.refs if self._is_newest(ref)]
        lost = [ref for ref in self.refs if self._was_lost(ref)]
        pool = self.refs + going_on * 3 + lost * 3
        job_id, worker, attempt = data.draw(st.sampled_from(pool))
        return job_id, data.draw(impostors) or worker, attempt

    def _is_newest(self, ref: Ref) -> bool:
        told = self.words.jobs[ref[0]]
        return told["state"] not in ENDED and bool(told["attempt"] == ref[2])

    def _was_lost(self, ref: Ref) -> bool:
        """And the job still waits, or waits again."""
        told = self.words.jobs[ref[0]]
        return told["state"] == "pending" and bool(told["tries"][ref[2]]["end"] == "lost")

    @precondition(has_pending)
    @rule(data=st.data(), worker=workers, void_text=st.booleans())
    def claim(self, data: st.DataObject, worker: str, void_text: bool) -> None:
        pending = [job for job, told in self.words.jobs.items() if told["state"] == "pending"]
        job_id = data.draw(st.sampled_from(pending))
        self.do(job_id, self.core.Claim(worker, LEASE_SECONDS, void_text))
        self.words.claim(job_id, worker, LEASE_SECONDS, void_text=void_text)
        self.refs.append((job_id, worker, self.words.jobs[job_id]["attempt"]))

    @precondition(has_refs)
    @rule(data=st.data())
    def renew(self, data: st.DataObject) -> None:
        job_id, worker, attempt = self.some_ref(data)
        told = self.do(job_id, self.core.Renew(worker, attempt, LEASE_SECONDS))
        assert told == self.words.renew(job_id, worker, attempt, LEASE_SECONDS)

    @precondition(has_refs)
    @rule(data=st.data(), state=st.sampled_from(HELD), message=st.sampled_from("-a"))
    def say(self, data: st.DataObject, state: str, message: str) -> None:
        job_id, worker, attempt = self.some_ref(data)
        text = message.strip("-")
        told = self.do(job_id, self.core.Say(worker, attempt, JobState(state), text))
        assert told == self.words.say(job_id, worker, attempt, state, text)

    @precondition(has_refs)
    @rule(data=st.data(), from_next=chunks)
    def append(self, data: st.DataObject, from_next: tuple[int, ...]) -> None:
        job_id, worker, attempt = self.some_ref(data)
        numbers = [max(0, self.words.jobs[job_id]["chunks"] + one) for one in from_next]
        brought = [(attempt, number) for number in numbers]
        told = self.do(job_id, self.core.Append(worker, attempt, tuple(numbers)), brought)
        assert told == self.words.append(job_id, worker, attempt, numbers)

    @precondition(has_refs)
    @rule(
        data=st.data(),
        ending=st.sampled_from(
            ("completed", "completed", "failed", "failed", "cancelled", "timeout")
        ),
        code=codes,
        retryable=st.sampled_from((True, True, False)),
        together=st.integers(0, 2),
    )
    def report(
        self,
        data: st.DataObject,
        ending: str,
        code: str,
        retryable: bool,
        together: int,
    ) -> None:
        job_id, worker, attempt = self.some_ref(data)
        event = self.core.Report(
            worker,
            attempt,
            state=JobState(ending),
            error_code=code,
            error="it broke",
            retryable=retryable,
            engine_jobs=together,
        )
        told = self.do(job_id, event, brought=(attempt, "result"))
        said = self.words.report(
            job_id, worker, attempt, ending, code=code, retryable=retryable, together=together
        )
        assert told == said

    @precondition(has_refs)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        job_id, worker, attempt = self.some_ref(data)
        told = self.do(job_id, self.core.Release(worker, attempt))
        assert told == self.words.release(job_id, worker, attempt)

    @rule(
        seconds=st.sampled_from((0.3, 5.0, LEASE_SECONDS, 80.0)),
        luck=st.floats(0, 0.99),
        reaps=st.sampled_from(("nothing", "leases", "leases", "deadlines")),
    )
    def time_passes(self, seconds: float, luck: float, reaps: str) -> None:
        self.now += seconds
        self.words.now = self.now
        self.words.luck = luck
        for job_id in JOBS:
            if reaps == "leases":
                self.look_at_lease(job_id)
            elif reaps == "deadlines":
                self.look_at_deadline(job_id)

    @precondition(has_refs)
    @rule(data=st.data())
    def cortex_acts(self, data: st.DataObject) -> None:
        deeds = (self.look_at_lease, self.look_at_deadline, self.suspect, self.lose, self.restart)
        job_id, _, _ = self.some_ref(data)
        data.draw(st.sampled_from((self.lose, *deeds)))(job_id)

    def look_at_lease(self, job_id: str) -> None:
        self.do(job_id, self.core.LeaseCheck())
        self.words.look_at_lease(job_id)

    def look_at_deadline(self, job_id: str) -> None:
        self.do(job_id, self.core.DeadlineCheck(GRACE_SECONDS))
        self.words.look_at_deadline(job_id, GRACE_SECONDS)

    def suspect(self, job_id: str) -> None:
        self.do(job_id, self.core.Suspect(SUSPECT_SECONDS))
        self.words.suspect(job_id, SUSPECT_SECONDS)

    def lose(self, job_id: str) -> None:
        self.do(job_id, self.core.WorkerGone("another process registered in its place"))
        self.words.lose_worker(job_id)

    def restart(self, _job_id: str) -> None:
        for job_id in JOBS:
            self.do(job_id, self.core.Grace(LEASE_SECONDS))
        self.words.restart(LEASE_SECONDS)

    def has_people(self) -> bool:
        """People act less often than workers do, or hardly a job would be run."""
        return self.deeds_of_people < len(self.refs)

    @precondition(has_people)
    @rule(data=st.data(), job_id=st.sampled_from(JOBS))
    def a_person_acts(self, data: st.DataObject, job_id: str) -> None:
        self.deeds_of_people += 1
        has_ended = self.words.jobs[job_id]["state"] in ENDED
        likely = self.retry_by_hand if has_ended else self.cancel
        data.draw(st.sampled_from((likely, self.cancel, self.retry_by_hand)))(job_id)

    def cancel(self, job_id: str) -> None:
        told = self.do(job_id, self.core.Cancel())
        assert told == self.words.cancel(job_id)
        if told != "stale":
            self.promised.add((job_id, self._begun_by_hand(job_id)))

    def retry_by_hand(self, job_id: str) -> None:
        told = self.do(job_id, self.core.RetryByHand())
        assert told == self.words.retry_by_hand(job_id)

    def _begun_by_hand(self, job_id: str) -> int:
        return self.ledger.records[job_id].begun_by_hand

    @invariant()
    def the_words_say_the_same(self) -> None:
        for job_id, told in self.words.jobs.items():
            record = self.ledger.records[job_id]
            assert seen_of(record.job) == said_of(told), job_id
            lines = [
                ("restart", line.attempt) if line.state is None else (line.state, line.attempt)
                for line in record.log
                if line.kind != "chunk"
            ]
            assert lines == [line[:2] for line in told["log"]], job_id
            ends = {number: one.outcome for number, one in record.attempts.items()}
            assert ends == {number: one["end"] for number, one in told["tries"].items()}, job_id
            assert (record.result is not None) == (told["kept"] == "whole"), job_id

    @invariant()
    def each_job_completes_once(self) -> None:
        for record in self.ledger.records.values():
            completions = sum(line.state is JobState.COMPLETED for line in record.log)
            assert completions <= 1
            if record.job.state is JobState.COMPLETED:
                assert record.result == (record.job.attempt, "result")
                assert record.job.worker_id == record.given_to

    @invariant()
    def chunks_come_in_their_order_without_gaps(self) -> None:
        for record in self.ledger.records.values():
            attempts = [line.attempt for line in record.log if line.kind == "chunk"]
            assert attempts == sorted(attempts), "no attempt speaks after the next one has"
            counted: Counter[int] = Counter()
            for line in record.log:
                if line.kind == "chunk":
                    assert line.brought == (line.attempt, counted[line.attempt])
                    counted[line.attempt] += 1
            assert counted[record.job.attempt] == record.job.next_chunk

    @invariant()
    def what_was_cancelled_does_not_complete(self) -> None:
        for job_id, begun in self.promised:
            if begun == self._begun_by_hand(job_id):
                assert self.ledger.records[job_id].job.state is not JobState.COMPLETED


def seen_of(job: Any) -> dict[str, Any]:
    """What of a core's job the words speak of."""
    return {
        "state": job.state,
        "attempt": job.attempt,
        "worker": job.worker_id,
        "cancelling": job.is_held and job.cancel_requested,
        "chunks": job.next_chunk,
        "available": job.available_at if job.state is JobState.PENDING else None,
        "lease": job.lease_expires_at,
        "deadline": job.deadline_at,
        "retries": job.retries_used,
        "deaths": job.engine_crashes,
        "lost": job.lost_workers,
        "code": job.error_code,
        "said": job.status_message if job.is_held else None,
    }


def said_of(told: dict[str, Any]) -> dict[str, Any]:
    """The same of a job in the reference's words."""
    state = told["state"]
    picked = {name: told[name] for name in ALWAYS_SAID}
    picked["cancelling"] = state in HELD and told["cancelling"]
    picked["available"] = told["available"] if state == "pending" else None
    picked["said"] = told["said"] if state in HELD else None
    return picked


def compare_with_reference(core: Any, *, examples: int, shrink: bool = True) -> Counter[str]:
    """Raise whatever shows that `core` and the reference part, or that a rule is broken.

    Returns how often events did something, by kind. The examples are the same each time: a mutant
    that was caught once is caught always.
    """
    seen: Counter[str] = Counter()
    machine = type("LeaseMachineOfACore", (LeaseMachine,), {"core": core, "seen": seen})
    chosen = settings(
        max_examples=examples,
        stateful_step_count=50,
        deadline=None,
        derandomize=True,
        database=None,
        phases=(Phase.generate, Phase.shrink) if shrink else (Phase.generate,),
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(machine, settings=chosen)
    return seen
