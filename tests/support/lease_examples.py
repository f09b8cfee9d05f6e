"""Jobs in some state, for tests of the lease core's rules one by one."""

from __future__ import annotations

from typing import Any

from mnemos.cortex import lease_core
from mnemos.cortex.lease_core import Event, Job, PastAttempt, Report, Step
from mnemos.cortex.state_machine import JobState, Outcome

NOW = 1000.0
LEASE_SECONDS = 15.0
LUCK = 0.5
"""The share of a back-off that is waited."""

ENDS = (JobState.COMPLETED, JobState.FAILED, JobState.CANCELLED, JobState.TIMEOUT)


def do(job: Job, event: Event, *, now: float = NOW) -> Step:
    """Have an event happen."""
    return lease_core.step(job, event, now=now, random=lambda: LUCK)


def held(**changes: Any) -> Job:
    """A job of which wrk_a has the second attempt, with 10 s of its lease left."""
    known: dict[str, Any] = {
        "state": JobState.EXECUTING,
        "attempt": 2,
        "worker_id": "wrk_a",
        "renewed": True,
        "lease_expires_at": NOW + 10,
        "deadline_at": NOW + 200,
    }
    return Job(**(known | changes))


def given_up(**changes: Any) -> Job:
    """A job whose second attempt, wrk_a's, was lost, and which waits for a third."""
    known: dict[str, Any] = {"attempt": 2, "retries_used": 1}
    return Job(**(known | changes))


def ended(state: JobState, **changes: Any) -> Job:
    """A job that has ended with its second attempt, wrk_a's."""
    known: dict[str, Any] = {"state": state, "attempt": 2, "worker_id": "wrk_a"}
    return Job(**(known | changes))


LOST = PastAttempt("wrk_a", Outcome.LOST, reported=False)


def completed(
    worker_id: str = "wrk_a", attempt: int = 2, past: PastAttempt | None = None
) -> Report:
    """A worker says that it has the job's result."""
    return Report(worker_id, attempt, state=JobState.COMPLETED, past=past)


def failed(code: str = "internal", *, retryable: bool = True, engine_jobs: int = 0) -> Report:
    """wrk_a says that its attempt failed."""
    return Report(
        "wrk_a",
        2,
        state=JobState.FAILED,
        error_code=code,
        error="it broke",
        retryable=retryable,
        engine_jobs=engine_jobs,
    )


def changes_nothing(step: Step, job: Job) -> bool:
    """Whether the job is the very same object, and the log and the attempts are as they were."""
    return step.job is job and step == Step(job, step.verdict)
