from __future__ import annotations

import pytest
from lease_examples import ENDS, LEASE_SECONDS, NOW, do, given_up, held

from mnemos.cortex.lease_core import Claim, Job, RestartLine, StateLine
from mnemos.cortex.state_machine import ACTIVE, JobState, TransitionError

CLAIM = Claim("wrk_b", LEASE_SECONDS)


def test_a_claim_gives_the_job_to_its_worker() -> None:
    step = do(Job(), CLAIM)

    assert step.job.state is JobState.ACQUIRED
    assert step.job.worker_id == "wrk_b"
    assert step.lines == (StateLine(JobState.ACQUIRED, 1, "wrk_b"),)


def test_each_claim_counts_the_attempt_up_by_one() -> None:
    assert do(Job(), CLAIM).job.attempt == 1
    assert do(given_up(), CLAIM).job.attempt == 3


def test_a_lease_and_the_timeout_begin_with_the_claim() -> None:
    job = do(Job(timeout_seconds=60), CLAIM).job

    assert job.lease_expires_at == NOW + LEASE_SECONDS
    assert job.deadline_at == NOW + 60


def test_an_attempt_begins_with_nothing_of_the_one_before() -> None:
    before = given_up(next_chunk=7, renewed=True, status_message="attempt 2 ended: it broke")
    job = do(before, CLAIM).job

    assert job.next_chunk == 0
    assert not job.renewed
    assert job.status_message is None


def test_a_claim_keeps_what_was_charged() -> None:
    job = do(given_up(retries_used=2, engine_crashes=1), CLAIM).job

    assert (job.retries_used, job.engine_crashes) == (2, 1)


def test_what_begins_again_says_so_before_anything_else() -> None:
    before = given_up(status_message="attempt 2 ended: it broke")
    step = do(before, Claim("wrk_b", LEASE_SECONDS, begins_again=True))

    assert step.lines == (
        RestartLine(3, "attempt 2 ended: it broke"),
        StateLine(JobState.ACQUIRED, 3, "wrk_b"),
    )


@pytest.mark.parametrize("state", sorted(ACTIVE | set(ENDS)))
def test_only_a_pending_job_can_be_claimed(state: JobState) -> None:
    with pytest.raises(TransitionError):
        do(held(state=state), CLAIM)
