from __future__ import annotations

import pytest
from lease_examples import NOW, changes_nothing, completed, do, ended, failed, held

from mnemos.cortex.lease_core import AttemptEnd, Keep, PastAttempt, Release, Report, StateLine
from mnemos.cortex.records import Fence
from mnemos.cortex.state_machine import JobState, Outcome, RetryPolicy


def test_a_completion_ends_the_job_and_its_attempt() -> None:
    step = do(held(), completed())

    assert step.verdict is Fence.ACCEPTED
    assert step.job.state is JobState.COMPLETED
    assert step.job.lease_expires_at is None
    assert step.lines == (StateLine(JobState.COMPLETED, 2, "wrk_a"),)
    assert step.ended == AttemptEnd(Outcome.COMPLETED, reported=True)
    assert step.keep is Keep.WHOLE


def test_the_same_report_again_is_a_duplicate() -> None:
    job = ended(JobState.COMPLETED)
    step = do(job, completed(past=PastAttempt("wrk_a", Outcome.COMPLETED, reported=True)))

    assert step.verdict is Fence.DUPLICATE
    assert changes_nothing(step, job)


def test_the_same_report_from_another_worker_is_stale() -> None:
    past = PastAttempt("wrk_a", Outcome.COMPLETED, reported=True)

    assert do(ended(JobState.COMPLETED), completed("wrk_b", past=past)).verdict is Fence.STALE


def test_a_completion_of_a_job_that_shall_stop_cancels_it() -> None:
    step = do(held(cancel_requested=True), completed())

    assert step.job.state is JobState.CANCELLED
    assert step.keep is Keep.NOTHING


def test_a_cancelled_attempt_keeps_what_it_had_got_to() -> None:
    step = do(held(cancel_requested=True), Report("wrk_a", 2, state=JobState.CANCELLED))

    assert step.job.state is JobState.CANCELLED
    assert step.keep is Keep.PARTIAL
    assert step.job.error == "The job was cancelled."


def test_a_failure_that_shall_stop_is_not_tried_again() -> None:
    assert do(held(cancel_requested=True), failed()).job.state is JobState.CANCELLED


def test_a_failure_that_may_be_retried_goes_back_after_a_while() -> None:
    step = do(held(), failed())

    assert step.job.state is JobState.PENDING
    assert step.job.retries_used == 1
    assert step.job.available_at == NOW + 0.5
    assert step.job.status_message == "attempt 2 ended: it broke"
    assert step.ended == AttemptEnd(Outcome.FAILED, True, "internal", "it broke")


def test_a_failure_that_no_worker_could_help_ends_the_job() -> None:
    job = do(held(), failed("invalid_input", retryable=False)).job

    assert job.state is JobState.FAILED
    assert (job.error_code, job.error, job.error_retryable) == ("invalid_input", "it broke", False)


def test_the_last_retry_is_the_last() -> None:
    policy = RetryPolicy(max_retries=2)

    assert do(held(policy=policy, retries_used=1), failed()).job.state is JobState.PENDING
    assert do(held(policy=policy, retries_used=2), failed()).job.state is JobState.FAILED


def test_a_reported_timeout_keeps_what_there_is() -> None:
    step = do(held(), Report("wrk_a", 2, state=JobState.TIMEOUT, error="too long"))

    assert step.job.state is JobState.TIMEOUT
    assert step.keep is Keep.PARTIAL


def test_the_first_death_of_an_engine_is_a_retry() -> None:
    job = do(held(), failed("engine_crashed", engine_jobs=1)).job

    assert job.state is JobState.PENDING
    assert (job.engine_crashes, job.retries_used) == (1, 1)


def test_a_second_engine_that_dies_under_the_job_alone_makes_it_poison() -> None:
    job = do(held(engine_crashes=1), failed("engine_crashed", engine_jobs=1)).job

    assert job.state is JobState.FAILED
    assert job.error == "the engine died 2 times under this job; last: it broke"
    assert job.error_retryable is False


def test_a_neighbour_is_not_charged_for_a_dead_engine() -> None:
    job = do(held(), failed("engine_crashed", engine_jobs=4)).job

    assert job.state is JobState.PENDING
    assert (job.engine_crashes, job.retries_used) == (1, 0)


def test_a_hand_back_is_pending_at_once_and_costs_nothing() -> None:
    step = do(held(retries_used=1), Release("wrk_a", 2, "it shuts down", "; so there"))

    assert step.job.state is JobState.PENDING
    assert step.job.retries_used == 1
    assert step.job.available_at == NOW
    assert step.job.status_message == "attempt 2 was handed back: it shuts down; so there"
    assert step.ended == AttemptEnd(Outcome.RELEASED, error="it shuts down")


def test_a_job_that_shall_stop_is_cancelled_when_it_is_handed_back() -> None:
    step = do(held(cancel_requested=True), Release("wrk_a", 2))

    assert step.verdict is Fence.CANCELLED
    assert step.job.state is JobState.CANCELLED


@pytest.mark.parametrize("state", [JobState.ACQUIRED, JobState.LOADING_MODEL, JobState.STREAMING])
def test_an_attempt_may_end_wherever_it_is(state: JobState) -> None:
    assert do(held(state=state), completed()).job.state is JobState.COMPLETED
