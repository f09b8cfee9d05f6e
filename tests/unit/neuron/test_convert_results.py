"""Results on the wire: times to the microsecond, and sizes that are never told too small."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from neuron.clients.convert import from_timestamp, to_result, to_timestamp
from neuron.clients.cortex_client import result_size
from neuron.errors import ErrorCode
from neuron.models.job import ErrorDetails, JobOutput, JobResult, JobStatus

MOMENTS = [
    datetime(2026, 11, 24, 12, 0, 0, 999_999, UTC),
    datetime(2026, 11, 24, 12, 0, 0, 1, timezone(timedelta(hours=-7))),
    datetime(1970, 1, 1, tzinfo=UTC),
    datetime(1969, 12, 31, 23, 59, 59, 500_000, UTC),
    datetime(9999, 12, 31, 23, 59, 59, 999_999, UTC),
]


@pytest.mark.parametrize("moment", MOMENTS)
def test_moments_travel_exactly(moment: datetime) -> None:
    theirs = Timestamp()
    theirs.FromDatetime(moment.astimezone(UTC))

    assert to_timestamp(moment) == theirs
    assert from_timestamp(theirs) == moment


@pytest.mark.parametrize(
    "given",
    [
        {"output": JobOutput(result="x" * 100_000)},
        {"output": JobOutput(result="漢🙂" * 999)},
        {"output": JobOutput(result=[1, {"a": None}], metadata={"b": "c" * 999})},
        {"output": JobOutput(result=0, metrics={f"m{index}": index for index in range(99)})},
        {"error": "é\udcff" * 2000, "status": JobStatus.FAILED},
        {
            "status": JobStatus.FAILED,
            "error_details": ErrorDetails(code=ErrorCode.TIMEOUT, more="m" * 5000),
        },
    ],
)
def test_a_size_is_never_told_too_small(given: dict[str, Any]) -> None:
    plain: dict[str, Any] = {
        "job_id": "job_" + "a" * 26,
        "status": JobStatus.COMPLETED,
        "worker_id": "wrk_1",
        "started_at": MOMENTS[0],
        "completed_at": MOMENTS[0],
        "duration_seconds": 1.5,
    }
    result = JobResult(**(plain | given))

    exact = to_result(result).ByteSize()

    assert exact <= result_size(result) <= exact + 1024
