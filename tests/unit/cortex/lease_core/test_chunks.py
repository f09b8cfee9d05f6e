from __future__ import annotations

from lease_examples import changes_nothing, do, held

from mnemos.cortex.lease_core import Append, StateLine
from mnemos.cortex.records import Fence
from mnemos.cortex.state_machine import JobState


def append(*sequences: int) -> Append:
    return Append("wrk_a", 2, sequences)


def test_chunks_are_kept_in_their_order() -> None:
    step = do(held(next_chunk=3), append(3, 4, 5))

    assert step.kept == (0, 1, 2)
    assert step.job.next_chunk == 6


def test_a_chunk_that_was_kept_is_not_kept_again() -> None:
    step = do(held(next_chunk=3), append(2, 3, 3))

    assert step.kept == (1,)
    assert step.job.next_chunk == 4


def test_nothing_is_kept_behind_a_gap() -> None:
    job = held(next_chunk=3)

    assert changes_nothing(do(job, append(4, 5)), job)


def test_what_fills_a_gap_in_the_same_call_lets_the_rest_in() -> None:
    step = do(held(next_chunk=3), append(4, 3, 4))

    assert step.kept == (1, 2)


def test_the_first_chunk_of_a_streamed_job_makes_it_stream() -> None:
    step = do(held(streams=True), append(0))

    assert step.job.state is JobState.STREAMING
    assert step.lines == (StateLine(JobState.STREAMING, 2, "wrk_a"),)


def test_an_unstreamed_job_goes_on_executing() -> None:
    step = do(held(streams=False), append(0))

    assert step.job.state is JobState.EXECUTING
    assert not step.lines


def test_a_cancel_is_told_and_the_chunks_are_kept() -> None:
    step = do(held(cancel_requested=True), append(0))

    assert step.verdict is Fence.CANCELLED
    assert step.kept == (0,)
