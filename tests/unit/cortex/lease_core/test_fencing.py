from __future__ import annotations

import pytest
from lease_examples import ENDS, LEASE_SECONDS, changes_nothing, do, ended, given_up, held

from mnemos.cortex.lease_core import Append, Event, Job, Release, Renew, Report, Say
from mnemos.cortex.records import Fence
from mnemos.cortex.state_machine import JobState


def calls(worker_id: str, attempt: int) -> list[Event]:
    """Everything that a worker says of an attempt."""
    return [
        Renew(worker_id, attempt, LEASE_SECONDS),
        Say(worker_id, attempt, JobState.STREAMING),
        Append(worker_id, attempt, (0,)),
        *(Report(worker_id, attempt, state=state) for state in ENDS),
        Release(worker_id, attempt),
    ]


def names(event: Event) -> str:
    return type(event).__name__ + str(getattr(event, "state", ""))


@pytest.mark.parametrize("event", calls("wrk_a", 2), ids=names)
def test_what_the_holder_says_counts(event: Event) -> None:
    step = do(held(), event)

    assert step.verdict is Fence.ACCEPTED
    assert step.job != held()


@pytest.mark.parametrize("event", calls("wrk_a", 1), ids=names)
def test_an_older_attempt_of_the_same_worker_is_stale(event: Event) -> None:
    job = held()
    step = do(job, event)

    assert step.verdict is Fence.STALE
    assert changes_nothing(step, job)


@pytest.mark.parametrize("event", calls("wrk_b", 2), ids=names)
def test_another_worker_is_stale_though_the_attempt_is_right(event: Event) -> None:
    job = held()
    step = do(job, event)

    assert step.verdict is Fence.STALE
    assert changes_nothing(step, job)


@pytest.mark.parametrize("event", calls("wrk_a", 2), ids=names)
@pytest.mark.parametrize(
    "job", [given_up(), *(ended(state) for state in ENDS)], ids=lambda job: job.state.value
)
def test_nobody_speaks_for_a_job_that_is_not_held(job: Job, event: Event) -> None:
    step = do(job, event)

    assert step.verdict is Fence.STALE
    assert changes_nothing(step, job)
