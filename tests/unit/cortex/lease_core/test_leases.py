from __future__ import annotations

import pytest
from lease_examples import LEASE_SECONDS, NOW, changes_nothing, do, given_up, held

from mnemos.cortex.lease_core import (
    AttemptEnd,
    DeadlineCheck,
    Event,
    Grace,
    LeaseCheck,
    Renew,
    Say,
    Suspect,
    WorkerGone,
)
from mnemos.cortex.records import Fence
from mnemos.cortex.state_machine import JobState, Outcome, RetryPolicy

RENEW = Renew("wrk_a", 2, LEASE_SECONDS)


def test_a_renewal_gives_a_whole_lease_from_now() -> None:
    job = do(held(renewed=False, lease_expires_at=NOW + 1), RENEW).job

    assert job.lease_expires_at == NOW + LEASE_SECONDS
    assert job.renewed


def test_a_lease_that_is_over_is_renewed_as_long_as_nobody_has_looked() -> None:
    assert do(held(lease_expires_at=NOW - 5), RENEW).verdict is Fence.ACCEPTED


def test_a_renewal_tells_the_worker_of_a_cancel_and_keeps_the_lease() -> None:
    step = do(held(cancel_requested=True), RENEW)

    assert step.verdict is Fence.CANCELLED
    assert step.job.lease_expires_at == NOW + LEASE_SECONDS


def test_a_lease_is_not_over_before_its_time() -> None:
    job = held(lease_expires_at=NOW + 0.001)

    assert changes_nothing(do(job, LeaseCheck()), job)


def test_a_job_is_lost_the_moment_its_lease_is_over() -> None:
    step = do(held(lease_expires_at=NOW), LeaseCheck())

    assert step.job.state is JobState.PENDING
    assert step.job.worker_id is None
    assert step.job.lease_expires_at is None
    assert step.job.deadline_at is None
    assert step.ended is not None
    assert (step.ended.outcome, step.ended.error_code) == (Outcome.LOST, "worker_lost")


@pytest.mark.parametrize("used", [0, 3])
@pytest.mark.parametrize("event", [LeaseCheck(), WorkerGone("it started anew")])
def test_a_lost_worker_costs_no_retry_is_counted_and_waited_for(event: Event, used: int) -> None:
    job = held(lease_expires_at=NOW, retries_used=used, lost_workers=1)

    again = do(job, event).job

    assert again.state is JobState.PENDING
    assert (again.retries_used, again.lost_workers) == (used, 2)
    assert again.available_at == NOW + 1.0


def test_a_job_under_which_three_workers_were_lost_is_parked() -> None:
    job = do(held(lease_expires_at=NOW, lost_workers=2), LeaseCheck()).job

    assert (job.state, job.error_code, job.error_retryable) == (
        JobState.FAILED,
        "worker_lost",
        False,
    )
    assert job.error == (
        "3 workers were lost while this job ran on them; "
        "last: worker wrk_a was lost: its worker stopped renewing the lease"
    )


@pytest.mark.parametrize("event", [LeaseCheck(most_lost=5), WorkerGone("gone", most_lost=5)])
def test_how_many_may_be_lost_is_told(event: Event) -> None:
    for lost, state in ((3, JobState.PENDING), (4, JobState.FAILED)):
        job = held(lease_expires_at=NOW, lost_workers=lost)
        assert do(job, event).job.state is state


def test_a_job_that_may_not_be_retried_is_not_run_twice_for_a_lost_worker_either() -> None:
    job = held(lease_expires_at=NOW, policy=RetryPolicy(max_retries=0))

    step = do(job, LeaseCheck())

    assert step.job.state is JobState.FAILED
    assert step.job.error == "worker wrk_a was lost: its worker stopped renewing the lease"
    assert step.job.error_retryable


def test_a_lost_job_that_shall_stop_is_cancelled() -> None:
    step = do(held(lease_expires_at=NOW, cancel_requested=True), LeaseCheck())

    assert step.job.state is JobState.CANCELLED
    assert step.ended is not None
    assert step.ended.outcome is Outcome.LOST


def test_a_worker_that_is_gone_loses_its_job_at_once() -> None:
    step = do(held(), WorkerGone("it started anew"))

    assert step.job.state is JobState.PENDING
    assert step.ended is not None
    assert step.ended.error == "worker wrk_a was lost: it started anew"


def test_suspicion_shortens_a_lease() -> None:
    assert do(held(lease_expires_at=NOW + 10), Suspect(3)).job.lease_expires_at == NOW + 3


def test_suspicion_never_lengthens_a_lease() -> None:
    job = held(lease_expires_at=NOW + 2)

    assert changes_nothing(do(job, Suspect(3)), job)


def test_grace_gives_a_whole_lease_and_time_to_report() -> None:
    job = do(held(lease_expires_at=NOW - 60, deadline_at=NOW - 30), Grace(LEASE_SECONDS)).job

    assert job.lease_expires_at == NOW + LEASE_SECONDS
    assert job.deadline_at == NOW + LEASE_SECONDS


def test_grace_takes_no_time_away() -> None:
    assert do(held(deadline_at=NOW + 200), Grace(LEASE_SECONDS)).job.deadline_at == NOW + 200


def test_a_timeout_waits_for_its_worker_to_say_so() -> None:
    job = held(deadline_at=NOW - 9.9)

    assert changes_nothing(do(job, DeadlineCheck(10)), job)


def test_a_timeout_that_no_worker_reports_ends_the_job() -> None:
    step = do(held(deadline_at=NOW - 10, timeout_seconds=60), DeadlineCheck(10))

    assert step.job.state is JobState.TIMEOUT
    assert step.job.error == "The job did not end within its timeout of 60 s."
    assert step.ended == AttemptEnd(Outcome.TIMEOUT, False, "timeout", step.job.error)


def test_a_timeout_is_retried_if_the_policy_names_it() -> None:
    policy = RetryPolicy(retryable_codes=("timeout",))

    step = do(held(deadline_at=NOW - 10, policy=policy), DeadlineCheck(10))

    assert step.job.state is JobState.PENDING
    assert step.job.retries_used == 1


@pytest.mark.parametrize(
    "event",
    [LeaseCheck(), DeadlineCheck(0), WorkerGone("gone"), Suspect(1), Grace(LEASE_SECONDS)],
    ids=lambda event: type(event).__name__,
)
def test_a_job_that_nobody_holds_has_no_lease(event: Event) -> None:
    job = given_up()

    assert changes_nothing(do(job, event), job)


def test_a_worker_says_where_it_is_and_may_leave_steps_out() -> None:
    step = do(held(state=JobState.ACQUIRED), Say("wrk_a", 2, JobState.EXECUTING, "row 3"))

    assert step.job.state is JobState.EXECUTING
    assert step.job.status_message == "row 3"
    assert step.lines[0].attempt == 2


def test_what_arrives_late_moves_nothing_back() -> None:
    step = do(held(state=JobState.STREAMING), Say("wrk_a", 2, JobState.LOADING_MODEL))

    assert step.verdict is Fence.DUPLICATE
    assert step.job.state is JobState.STREAMING
    assert not step.lines


def test_the_first_word_of_a_worker_shows_that_the_claim_arrived() -> None:
    assert do(held(renewed=False), Say("wrk_a", 2, JobState.EXECUTING)).job.renewed
