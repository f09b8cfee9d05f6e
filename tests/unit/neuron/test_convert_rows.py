"""Rows, resumes, needs and engine crashes cross the wire unchanged."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mnemos.protocol.v1 import cortex_pb2 as pb
from neuron.clients.convert import from_acquired, to_chunk, to_released, to_result
from neuron.errors import ErrorCode
from neuron.models.job import (
    ErrorDetails,
    JobResult,
    JobStatus,
    LeasedJob,
    Requirements,
    ResumeState,
    RowResult,
    StreamChunk,
)
from neuron.models.lease import AttemptRef, ReleasedJob

REF = AttemptRef("job_1", 2)
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def leased(**fields: Any) -> pb.AcquireJobResponse:
    """A batch of two rows on its second attempt."""
    job = pb.JobSpec(
        job_id=REF.job_id,
        job_type=pb.JOB_TYPE_BATCH_INFERENCE,
        priority=5,
        model=pb.ModelRef(family="tiny", version="1", runtime="transformers"),
        input=pb.JobInput(inputs_json=['"a"', '{"prompt":"b","id":7}']),
        timeout_seconds=60,
    )
    message = pb.LeasedJob(job=job, attempt=REF.attempt, **fields)
    message.lease.FromSeconds(15)
    return pb.AcquireJobResponse(jobs=[message])


def read(**fields: Any) -> LeasedJob:
    acquired = from_acquired(leased(**fields))
    assert not acquired.refused
    return acquired.jobs[0]


def test_a_batch_arrives_with_its_rows_and_the_metrics_of_an_evaluation() -> None:
    response = leased()
    response.jobs[0].job.job_type = pb.JOB_TYPE_EVALUATION
    response.jobs[0].job.input.parameters_json = '{"metrics":["f1"],"max_tokens":3}'

    (job,) = from_acquired(response).jobs

    assert job.job.input.inputs == ["a", {"prompt": "b", "id": 7}]
    assert job.job.input.parameters == {"metrics": ["f1"], "max_tokens": 3}


def test_what_earlier_attempts_brought_arrives() -> None:
    rows = [pb.RowResult(index=1, result_json='{"result":"B","tokens_generated":2}')]
    resume = pb.ResumeState(token_ids=[1, 2], text="hi", rows=rows)

    assert read(resume=resume).resume == ResumeState(
        token_ids=[1, 2],
        text="hi",
        rows=[RowResult(index=1, result={"result": "B", "tokens_generated": 2})],
    )


def test_a_first_attempt_has_nothing_to_resume_and_no_crash_behind_it() -> None:
    job = read()

    assert (job.resume, job.engine_crashes) == (None, 0)
    assert read(engine_crashes=2).engine_crashes == 2


@pytest.mark.parametrize("text", ["[1]", "{", "5"])
def test_a_job_whose_kept_rows_cannot_be_read_is_refused_alone(text: str) -> None:
    resume = pb.ResumeState(rows=[pb.RowResult(index=0, result_json=text)])

    acquired = from_acquired(leased(resume=resume))

    assert acquired.jobs == []
    assert [refused.ref for refused in acquired.refused] == [REF]


@given(st.integers(0, 2**32 - 1), st.dictionaries(st.text(), JSON, max_size=4))
def test_a_row_comes_back_as_it_went(index: int, result: dict[str, Any]) -> None:
    row = RowResult(index=index, result=result)
    chunk = to_chunk(StreamChunk(job_id="job_1", sequence=0, content="", row=row))

    assert chunk.HasField("row")
    resume = read(resume=pb.ResumeState(rows=[chunk.row])).resume
    assert resume is not None
    assert resume.rows == [row]


def test_a_chunk_of_text_has_no_row() -> None:
    assert not to_chunk(StreamChunk(job_id="job_1", sequence=0, content="a")).HasField("row")


def test_a_job_is_handed_back_with_its_rows_and_what_it_needs() -> None:
    progress = ResumeState(rows=[RowResult(index=1, result={"result": "B"})])
    needs = Requirements(min_memory_mb=2000, min_gpu_memory_mb=8000)

    message = to_released(ReleasedJob(REF, "too big", progress=progress, needs=needs))

    assert [(row.index, row.result_json) for row in message.progress.rows] == [
        (1, '{"result":"B"}')
    ]
    assert (message.needs.min_memory_mb, message.needs.min_gpu_memory_mb) == (2000, 8000)


def test_a_job_that_was_not_begun_is_handed_back_with_neither() -> None:
    message = to_released(ReleasedJob(REF, "the worker shuts down"))

    assert not message.HasField("progress")
    assert not message.HasField("needs")


def test_a_dead_engine_s_result_says_how_many_jobs_it_ran() -> None:
    details = ErrorDetails(code=ErrorCode.ENGINE_CRASHED, retryable=True, engine_jobs=3)
    result = JobResult.model_validate(
        {
            "job_id": "job_1",
            "attempt": 2,
            "status": JobStatus.FAILED,
            "error": "the engine died",
            "error_details": details,
            "worker_id": "wrk_1",
            "started_at": "2026-01-01T00:00:00Z",
        }
    )

    message = to_result(result)

    assert message.error_details.engine_jobs == 3
    assert message.error_details.code == pb.ERROR_CODE_ENGINE_CRASHED
    assert message.error_details.details_json == ""
