"""The contract's enums and CORTEX's own words, one for the other."""

from __future__ import annotations

from mnemos.protocol.v1 import cortex_pb2 as pb

from ..records import Fence
from ..state_machine import JobState

JOB_STATE_BY_NUMBER: dict[int, JobState] = {
    pb.JobStatus.Value(f"JOB_STATUS_{state.name}"): state for state in JobState
}
VERDICT_BY_FENCE: dict[Fence, pb.Verdict.ValueType] = {
    Fence.ACCEPTED: pb.VERDICT_ACCEPTED,
    Fence.DUPLICATE: pb.VERDICT_DUPLICATE,
    Fence.STALE: pb.VERDICT_STALE,
    Fence.CANCELLED: pb.VERDICT_CANCELLED,
}


_JOB_TYPE_NUMBERS: dict[str, pb.JobType.ValueType] = {
    name.removeprefix("JOB_TYPE_").lower(): number for name, number in pb.JobType.items()
}


def worker_status_word(number: int) -> str:
    """`idle`, `busy`, …; what is not known reads as `error`."""
    return _word(pb.WorkerStatus.DESCRIPTOR.values_by_number, number, "WORKER_STATUS_", "error")


def job_type_word(number: int) -> str:
    """`inference`, `batch_inference`, …"""
    return _word(pb.JobType.DESCRIPTOR.values_by_number, number, "JOB_TYPE_", "inference")


def error_code_word(number: int) -> str:
    """`invalid_input`, `out_of_memory`, …; what is not known reads as `internal`."""
    return _word(pb.ErrorCode.DESCRIPTOR.values_by_number, number, "ERROR_CODE_", "internal")


def job_type_number(word: str) -> pb.JobType.ValueType:
    """Return the contract's number of a job type."""
    return _JOB_TYPE_NUMBERS[word]


def error_code_number(word: str) -> pb.ErrorCode.ValueType:
    """Return the contract's number of an error code."""
    return pb.ErrorCode.Value(f"ERROR_CODE_{word.upper()}")


def action_kind_number(word: str) -> pb.ActionKind.ValueType:
    """Return the contract's number of an action."""
    return pb.ActionKind.Value(f"ACTION_KIND_{word.upper()}")


def _word(values: object, number: int, prefix: str, default: str) -> str:
    value = values.get(number)  # type: ignore[attr-defined]  # protobuf's own mapping, untyped
    if value is None or number == 0:
        return default
    return str(value.name).removeprefix(prefix).lower()
