"""Everything that can go wrong with the registry, as one tree; server and client share it.

    GenomeError
    ├── InvalidModelError        invalid_input    the description is not what it must be
    ├── ModelNotFoundError       model_not_found  no such family or version
    ├── TagNotFoundError         tag_not_found    the family has no such version tag
    ├── ModelConflictError       conflict         the version or its name is taken, or in use
    ├── NotLetInError            unauthorized     the token is missing or wrong
    ├── ModelChangedError        precondition_failed  If-Match names what is no longer there
    └── GenomeUnavailableError   unavailable      out of reach, or its disk fails: try again

May the same call be sent again? (`retryable`) Whose fault is it? (`code`)
"""

from __future__ import annotations

from typing import ClassVar

RETRY_SECONDS = 2
"""When to try again after an error that is `retryable`."""


class GenomeError(Exception):
    """The root. `message` is one sentence for a person; `field` is the input at fault."""

    code: ClassVar[str] = "internal"
    status: ClassVar[int] = 500
    retryable: ClassVar[bool] = False

    def __init__(self, message: str, field: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.field = field


class InvalidModelError(GenomeError):
    """A body or parameter is not what it must be."""

    code = "invalid_input"
    status = 422


class ModelNotFoundError(GenomeError):
    """There is no such family, or no such version of it."""

    code = "model_not_found"
    status = 404


class TagNotFoundError(GenomeError):
    """The family has no such version tag."""

    code = "tag_not_found"
    status = 404


class ModelConflictError(GenomeError):
    """The version is registered with other content, or a name or a version is in use."""

    code = "conflict"
    status = 409


class ModelChangedError(GenomeError):
    """What the call was to change is not what the caller has seen (If-Match)."""

    code = "precondition_failed"
    status = 412


class NotLetInError(GenomeError):
    """GENOME asks for its token."""

    code = "unauthorized"
    status = 401


class GenomeUnavailableError(GenomeError):
    """GENOME cannot be reached, or cannot read or write its data."""

    code = "unavailable"
    status = 503
    retryable = True
