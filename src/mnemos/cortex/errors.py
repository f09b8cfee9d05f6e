"""Everything CORTEX refuses or cannot do, as one tree.

    CortexError
    ├── JobNotFoundError         job_not_found
    ├── LogPrunedError           log_pruned         the job is there, its log is kept no longer
    ├── WorkerNotFoundError      worker_not_found   a person names a worker that is not there
    │   └── WorkerUnknownError   worker_unknown     a worker must register again
    ├── WorkerReplacedError      worker_replaced    another process took the worker's id: leave
    ├── ConflictError            conflict           the thing is in another state than needed
    ├── StorageUnavailableError  unavailable        nothing changed; the same call may be repeated
    └── StartError               cannot_start       the operator must act: exit 1

One sentence for a person, one stable code for a machine.
"""

from __future__ import annotations

from typing import ClassVar


class CortexError(Exception):
    """The root; `message` is one sentence."""

    code: ClassVar[str] = "internal"

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class JobNotFoundError(CortexError):
    """There is no such job."""

    code = "job_not_found"

    def __init__(self, job_id: str) -> None:
        super().__init__(f"There is no job {job_id}.")


class LogPrunedError(CortexError):
    """The job has ended long ago, and its log is kept no longer."""

    code = "log_pruned"

    def __init__(self, job_id: str) -> None:
        super().__init__(f"The log of job {job_id} is kept no longer; the job itself still is.")


class WorkerNotFoundError(CortexError):
    """There is no such worker."""

    code = "worker_not_found"

    def __init__(self, worker_id: str) -> None:
        super().__init__(f"There is no worker {worker_id}.")


class WorkerUnknownError(WorkerNotFoundError):
    """A call comes from a worker that is not registered (any more)."""

    code = "worker_unknown"


class WorkerReplacedError(CortexError):
    """A call comes from a process whose worker id another process has registered since."""

    code = "worker_replaced"

    def __init__(self, worker_id: str) -> None:
        super().__init__(f"Another process has registered as worker {worker_id}.")


class ConflictError(CortexError):
    """The job or the key is not in the state that the call needs."""

    code = "conflict"


class StorageUnavailableError(CortexError):
    """The store cannot be written or read now; nothing of the call has happened."""

    code = "unavailable"


class StartError(CortexError):
    """CORTEX cannot start as it is configured."""

    code = "cannot_start"
