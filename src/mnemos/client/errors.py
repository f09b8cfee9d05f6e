"""Everything that can go wrong for a client, as one tree.

    MnemosError                 one sentence, a stable code, whether trying again may help
    ├── UnreachableError        nobody answers, or what answers is not CORTEX
    ├── WaitTimeoutError        a wait of the caller's was over first; the job goes on
    ├── AnswerRestartedError    a stream's answer began anew: what came before is void
    ├── ApiError                CORTEX refused a call
    │   ├── InvalidInputError       400, 413, 422; `field` says where
    │   ├── AuthenticationError     401
    │   ├── PermissionDeniedError   403
    │   ├── NotFoundError           404, 410
    │   ├── ConflictError           409
    │   ├── RateLimitedError        429; `retry_after_seconds` says when
    │   └── ServerError             5xx
    └── JobError                the job has ended without an answer; `job` is what it became
        ├── JobFailedError
        ├── JobCancelledError
        └── JobTimedOutError

`code` is CORTEX's own (`invalid_input`, `model_not_found`, `out_of_memory`, …), where it said one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from .infos import JobInfo


class MnemosError(Exception):
    """The root. `message` is one sentence, `code` is stable, `job_id` is there where it is known.

    `retryable` says that the same call, or the same job, may do better later.
    """

    default_code: ClassVar[str] = "internal"
    default_retryable: ClassVar[bool] = False

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        retryable: bool | None = None,
        job_id: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code or self.default_code
        self.retryable = self.default_retryable if retryable is None else retryable
        self.job_id = job_id


class UnreachableError(MnemosError):
    """CORTEX does not answer; `refused` says that nobody listens at the address."""

    default_code = "unavailable"
    default_retryable = True

    def __init__(self, message: str, *, refused: bool = False, retryable: bool = True) -> None:
        super().__init__(message, retryable=retryable)
        self.refused = refused


class WaitTimeoutError(MnemosError, TimeoutError):
    """The time that the caller gave is over; the job itself goes on."""

    default_code = "timeout"
    default_retryable = True


class AnswerRestartedError(MnemosError):
    """Another worker began the answer anew, since it could not go on in it.

    Go on behind this: `job.stream(after=error.sequence)`.
    """

    default_code = "restarted"
    default_retryable = True

    def __init__(self, message: str, *, sequence: int, job_id: str) -> None:
        super().__init__(message, job_id=job_id)
        self.sequence = sequence


class ApiError(MnemosError):
    """CORTEX refused a call. `status` is HTTP's (0 for one job of many), `field` what was wrong."""

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        status: int = 0,
        field: str | None = None,
        request_id: str | None = None,
        retryable: bool | None = None,
        retry_after_seconds: float | None = None,
        job_id: str | None = None,
    ) -> None:
        super().__init__(message, code=code, retryable=retryable, job_id=job_id)
        self.status = status
        self.field = field
        self.request_id = request_id
        self.retry_after_seconds = retry_after_seconds


class InvalidInputError(ApiError):
    """What was asked cannot work, however often it is asked."""

    default_code = "invalid_input"


class AuthenticationError(ApiError):
    """The API key is missing or unknown."""

    default_code = "unauthorized"


class PermissionDeniedError(ApiError):
    """The API key may not do this."""

    default_code = "forbidden"


class NotFoundError(ApiError):
    """There is no such thing, or no longer."""

    default_code = "not_found"


class ConflictError(ApiError):
    """The thing is in another state than the call needs."""

    default_code = "conflict"


class RateLimitedError(ApiError):
    """More than the API key is allowed; the call may be repeated later."""

    default_code = "rate_limit_exceeded"
    default_retryable = True


class ServerError(ApiError):
    """CORTEX could not answer."""


class JobError(MnemosError):
    """A job has ended without its answer; `job` is all that is known of it."""

    def __init__(self, job: JobInfo) -> None:
        failure = job.error
        reason = f": {failure.message}" if failure else "."
        super().__init__(
            f"The job {job.id} is {job.status}{reason}",
            code=failure.code if failure else job.status,
            retryable=failure.retryable if failure else False,
            job_id=job.id,
        )
        self.job = job


class JobFailedError(JobError):
    """No attempt of it succeeded."""


class JobCancelledError(JobError):
    """Somebody cancelled it."""


class JobTimedOutError(JobError):
    """It took longer than its `timeout_seconds`."""


_BY_STATUS: dict[int, type[ApiError]] = {
    400: InvalidInputError,
    401: AuthenticationError,
    403: PermissionDeniedError,
    404: NotFoundError,
    409: ConflictError,
    410: NotFoundError,
    413: InvalidInputError,
    422: InvalidInputError,
    429: RateLimitedError,
}
_BY_CODE: dict[str, type[ApiError]] = {
    "conflict": ConflictError,
    "model_not_found": NotFoundError,
    "not_found": NotFoundError,
    "internal": ServerError,
    "storage_unavailable": ServerError,
    "unavailable": ServerError,
}
_PASSING_STATUSES = frozenset({408, 429, 502, 503, 504})
_PASSING_CODES = frozenset({"unavailable", "storage_unavailable", "internal"})
_LIMIT_WORDS = ("rate_limit", "quota", "too_many")


def error_of_answer(status: int, body: object, headers: Mapping[str, str]) -> MnemosError:
    """The error that an HTTP answer tells."""
    told = body.get("error") if isinstance(body, Mapping) else None
    passing = status in _PASSING_STATUSES
    if not isinstance(told, Mapping) or not isinstance(told.get("message"), str):
        sentence = f"The server answered {status} in words that CORTEX does not use."
        return UnreachableError(sentence, retryable=passing or status >= 500)
    kind = _BY_STATUS.get(status, ServerError if status >= 500 else ApiError)
    return kind(
        told["message"],
        code=str(told["code"]) if told.get("code") else None,
        status=status,
        field=told.get("field"),
        request_id=headers.get("x-request-id"),
        retryable=passing,
        retry_after_seconds=_retry_after(headers),
    )


def error_of_line(line: Mapping[str, Any]) -> ApiError:
    """The error of one job among many that were submitted together."""
    code = str(line.get("code") or "internal")
    limited = any(word in code for word in _LIMIT_WORDS)
    kind = RateLimitedError if limited else _BY_CODE.get(code, InvalidInputError)
    return kind(
        str(line["message"]),
        code=code,
        field=line.get("field"),
        retryable=limited or code in _PASSING_CODES,
        retry_after_seconds=line.get("retry_after_seconds"),
    )


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """`retry-after-ms`, or `retry-after` in seconds; a date is passed over."""
    for name, unit in (("retry-after-ms", 1e-3), ("retry-after", 1.0)):
        try:
            seconds = float(headers.get(name, "")) * unit
        except ValueError:
            continue
        if math.isfinite(seconds) and seconds >= 0:
            return seconds
    return None
