"""Everything that can go wrong with the registry, as one tree; server and client share it.

    GenomeError
    ├── InvalidModelError        invalid_input    the description is not what it must be
    ├── ModelNotFoundError       model_not_found  no such family or version
    ├── ModelConflictError       conflict         the version exists with other content
    └── GenomeUnavailableError   unavailable      out of reach, or its disk fails: try again

May the same call be sent again? (`retryable`) Whose fault is it? (`code`)
"""

from __future__ import annotations

from typing import ClassVar


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


class ModelConflictError(GenomeError):
    """The version is registered, with other content."""

    code = "conflict"
    status = 409


class GenomeUnavailableError(GenomeError):
    """GENOME cannot be reached, or cannot read or write its data."""

    code = "unavailable"
    status = 503
    retryable = True
