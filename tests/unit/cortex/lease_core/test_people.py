from __future__ import annotations

import pytest
from lease_examples import NOW, changes_nothing, do, ended, given_up, held

from mnemos.cortex.lease_core import Cancel, Job, RetryByHand, StateLine
from mnemos.cortex.records import Fence
from mnemos.cortex.state_machine import ACTIVE, JobState


def test_a_job_that_nobody_holds_is_cancelled_at_once() -> None:
    step = do(given_up(), Cancel())

    assert step.verdict is Fence.ACCEPTED
    assert step.job.state is JobState.CANCELLED
    assert step.lines == (StateLine(JobState.CANCELLED, 2, None, "The job was cancelled."),)
    assert step.ended is None


@pytest.mark.parametrize("state", sorted(ACTIVE))
def test_a_job_that_is_held_is_cancelled_through_its_worker(state: JobState) -> None:
    step = do(held(state=state), Cancel())

    assert step.verdict is Fence.ACCEPTED
    assert step.job == held(state=state, cancel_requested=True)
    assert not step.lines


@pytest.mark.parametrize(
    "job", [held(cancel_requested=True), ended(JobState.CANCELLED)], ids=["will be", "is"]
)
def test_a_cancel_again_is_a_duplicate(job: Job) -> None:
    step = do(job, Cancel())

    assert step.verdict is Fence.DUPLICATE
    assert changes_nothing(step, job)


@pytest.mark.parametrize("state", [JobState.COMPLETED, JobState.FAILED, JobState.TIMEOUT])
def test_a_job_that_has_ended_is_not_cancelled(state: JobState) -> None:
    job = ended(state)
    step = do(job, Cancel())

    assert step.verdict is Fence.STALE
    assert changes_nothing(step, job)


@pytest.mark.parametrize("state", [JobState.FAILED, JobState.CANCELLED, JobState.TIMEOUT])
def test_a_retry_by_hand_begins_with_nothing_charged(state: JobState) -> None:
    before = ended(
        state,
        retries_used=3,
        engine_crashes=2,
        lost_workers=2,
        error="it broke",
        error_code="internal",
        cancel_requested=True,
    )
    step = do(before, RetryByHand())

    assert step.job.state is JobState.PENDING
    assert step.job.available_at == NOW
    counts = step.job.retries_used, step.job.engine_crashes, step.job.lost_workers
    assert counts == (0, 0, 0)
    assert (step.job.error, step.job.error_code) == (None, None)
    assert not step.job.cancel_requested
    assert step.forgets


def test_a_retry_by_hand_makes_all_attempts_void_and_counts_on() -> None:
    job = do(ended(JobState.FAILED), RetryByHand()).job

    assert (job.attempt, job.void_attempts) == (2, 2)


@pytest.mark.parametrize("job", [given_up(), held(), ended(JobState.COMPLETED)])
def test_nothing_else_is_retried_by_hand(job: Job) -> None:
    step = do(job, RetryByHand())

    assert step.verdict is Fence.STALE
    assert changes_nothing(step, job)
