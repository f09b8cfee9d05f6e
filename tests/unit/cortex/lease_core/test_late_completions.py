"""A worker was cut off for longer than a lease, has the result, and nobody has begun since."""

from __future__ import annotations

import pytest
from lease_examples import LOST, changes_nothing, completed, do, ended, given_up, held

from mnemos.cortex.lease_core import Append, AttemptEnd, Job, Keep, PastAttempt, Report
from mnemos.cortex.records import Fence
from mnemos.cortex.state_machine import JobState, Outcome

LATE = completed(past=LOST)


def test_a_late_completion_counts_while_the_job_waits() -> None:
    step = do(given_up(), LATE)

    assert step.verdict is Fence.ACCEPTED
    assert step.job.state is JobState.COMPLETED
    assert step.job.worker_id == "wrk_a"
    assert step.ended == AttemptEnd(Outcome.COMPLETED, reported=True, revised=True)
    assert step.keep is Keep.WHOLE


def test_so_do_its_chunks_where_they_belong() -> None:
    step = do(given_up(next_chunk=4, streams=True), Append("wrk_a", 2, (3, 4, 5), LOST))

    assert step.kept == (1, 2)
    assert step.job.next_chunk == 6
    assert step.job.state is JobState.PENDING
    assert not step.lines


def test_the_first_of_its_chunks_makes_nothing_stream() -> None:
    step = do(given_up(streams=True), Append("wrk_a", 2, (0,), LOST))

    assert step.kept == (0,)
    assert step.job.state is JobState.PENDING


@pytest.mark.parametrize(
    "job",
    [
        held(attempt=3, worker_id="wrk_b"),
        held(attempt=3, worker_id="wrk_a"),
        given_up(attempt=3),
        given_up(void_attempts=2),
        ended(JobState.FAILED),
        ended(JobState.CANCELLED),
    ],
    ids=[
        "another worker has begun",
        "the same worker has begun anew",
        "another attempt was lost too",
        "a person voided it",
        "it has failed",
        "it was cancelled",
    ],
)
def test_it_does_not_count(job: Job) -> None:
    for event in (LATE, Append("wrk_a", 2, (0,), LOST)):
        step = do(job, event)
        assert step.verdict is Fence.STALE
        assert changes_nothing(step, job)


@pytest.mark.parametrize(
    "past",
    [
        PastAttempt("wrk_b", Outcome.LOST, reported=False),
        PastAttempt("wrk_a", Outcome.RELEASED, reported=False),
        PastAttempt("wrk_a", Outcome.TIMEOUT, reported=False),
        None,
    ],
    ids=["it was another's", "it was handed back", "it took too long", "there was none"],
)
def test_only_who_was_lost_may_be_late(past: PastAttempt | None) -> None:
    job = given_up()
    step = do(job, completed(past=past))

    assert step.verdict is Fence.STALE
    assert changes_nothing(step, job)


def test_a_failed_attempt_that_reports_again_is_a_duplicate() -> None:
    past = PastAttempt("wrk_a", Outcome.FAILED, reported=True)

    assert do(given_up(), completed(past=past)).verdict is Fence.DUPLICATE


@pytest.mark.parametrize("state", [JobState.FAILED, JobState.CANCELLED, JobState.TIMEOUT])
def test_a_late_report_of_anything_else_is_stale(state: JobState) -> None:
    job = given_up()

    assert changes_nothing(do(job, Report("wrk_a", 2, state=state, past=LOST)), job)
