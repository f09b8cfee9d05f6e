"""Everything that can go wrong on a worker, as one tree.

    NeuronError
    ├── InvalidInputError           invalid_input           the submitter's fault, never retried
    ├── ModelNotFoundError          model_not_found         the submitter's fault, never retried
    ├── ArtifactCorruptError        artifact_corrupt        the store's fault, retried
    │   └── UntrustedModelError     artifact_corrupt        no trusted key vouches, never retried
    ├── RuntimeUnavailableError     runtime_unavailable     this worker's lack, retried elsewhere
    ├── InsufficientResourcesError  insufficient_resources  this worker's lack, retried elsewhere
    │   ├── OutOfMemoryError        out_of_memory
    │   ├── DiskInUseError          insufficient_resources  models in use leave no room on the disk
    │   └── ModelTooLargeError      insufficient_resources  a bigger worker must take the job
    ├── EngineCrashedError          engine_crashed          the engine is gone, the worker is well
    ├── JobTimeoutError             timeout
    ├── JobCancelledError           cancelled
    ├── StorageUnavailableError     storage_unavailable     ENGRAM or GENOME out of reach, retried
    ├── CortexUnavailableError      internal                CORTEX out of reach; the call may be
    │                                                       sent again
    ├── WorkerUnknownError          internal                CORTEX forgot this worker: register
    └── ConfigurationError          internal                the operator's fault; exit 78

Three questions are answered by type: may it be retried (`retryable`)? whose fault is it
(`code`)? is the worker still healthy? (yes, for every error that a job raises).
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any, ClassVar


class ErrorCode(StrEnum):
    """The stable codes a job can end with; the same words travel on the wire."""

    INVALID_INPUT = "invalid_input"
    MODEL_NOT_FOUND = "model_not_found"
    ARTIFACT_CORRUPT = "artifact_corrupt"
    RUNTIME_UNAVAILABLE = "runtime_unavailable"
    INSUFFICIENT_RESOURCES = "insufficient_resources"
    OUT_OF_MEMORY = "out_of_memory"
    ENGINE_CRASHED = "engine_crashed"
    WORKER_LOST = "worker_lost"
    TIMEOUT = "timeout"
    CANCELLED = "cancelled"
    STORAGE_UNAVAILABLE = "storage_unavailable"
    INTERNAL = "internal"


class NeuronError(Exception):
    """The root. `message` is one sentence for a person; `details` is JSON-able."""

    code: ClassVar[ErrorCode] = ErrorCode.INTERNAL
    retryable: ClassVar[bool] = True

    def __init__(self, message: str, **details: Any) -> None:
        super().__init__(message)
        self.message = message
        self.details = details


class InvalidInputError(NeuronError):
    """The job asks for something no worker could do."""

    code = ErrorCode.INVALID_INPUT
    retryable = False


class ModelNotFoundError(NeuronError):
    """GENOME knows no such family or version."""

    code = ErrorCode.MODEL_NOT_FOUND
    retryable = False


class ArtifactCorruptError(NeuronError):
    """A model's files are not those that GENOME's manifest names."""

    code = ErrorCode.ARTIFACT_CORRUPT


class UntrustedModelError(ArtifactCorruptError):
    """A model's signature is missing, wrong, or by nobody whom this worker trusts."""

    retryable = False


class RuntimeUnavailableError(NeuronError):
    """This worker does not offer the runtime."""

    code = ErrorCode.RUNTIME_UNAVAILABLE


class InsufficientResourcesError(NeuronError):
    """The model does not fit this machine's memory or disk."""

    code = ErrorCode.INSUFFICIENT_RESOURCES


class OutOfMemoryError(InsufficientResourcesError):
    """Memory ran out while loading or running."""

    code = ErrorCode.OUT_OF_MEMORY


class DiskInUseError(InsufficientResourcesError):
    """The models in use on this machine leave no room on its disk for another."""


class ModelTooLargeError(InsufficientResourcesError):
    """The model does not fit this worker, whatever makes room; `details` name what it needs."""


class EngineCrashedError(NeuronError):
    """The engine process died or stopped answering; the worker itself is well."""

    code = ErrorCode.ENGINE_CRASHED


class JobTimeoutError(NeuronError):
    """The job's timeout, loading included, ran out."""

    code = ErrorCode.TIMEOUT


class JobCancelledError(NeuronError):
    """The submitter wants the job stopped."""

    code = ErrorCode.CANCELLED
    retryable = False


class StorageUnavailableError(NeuronError):
    """ENGRAM or GENOME cannot be reached."""

    code = ErrorCode.STORAGE_UNAVAILABLE


class CortexUnavailableError(NeuronError):
    """CORTEX cannot be reached; the same call may be sent again."""


class CortexRefusedError(CortexUnavailableError):
    """Nobody listens at CORTEX's address: it does not run."""


class WorkerUnknownError(NeuronError):
    """CORTEX does not know this worker (any more): register again."""


class ConfigurationError(NeuronError):
    """The settings cannot work; starting again will not help."""

    retryable = False


ERRORS_BY_CODE: dict[ErrorCode, type[NeuronError]] = {
    error.code: error
    for error in (
        InvalidInputError,
        ModelNotFoundError,
        ArtifactCorruptError,
        RuntimeUnavailableError,
        InsufficientResourcesError,
        OutOfMemoryError,
        EngineCrashedError,
        JobTimeoutError,
        JobCancelledError,
        StorageUnavailableError,
        NeuronError,
    )
}


def error_from_code(code: ErrorCode, message: str, details: dict[str, Any]) -> NeuronError:
    """Rebuild an error that crossed a process boundary."""
    return ERRORS_BY_CODE.get(code, NeuronError)(message, **details)
