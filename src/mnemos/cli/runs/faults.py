"""What the client could not do, as the command line says it."""

from __future__ import annotations

from mnemos.client import (
    ApiError,
    ConflictError,
    InvalidInputError,
    MnemosError,
    NotFoundError,
    UnreachableError,
)

from ..errors import CliError, Conflict, NotFound, Unreachable, UsageFault

_KINDS: tuple[tuple[type[MnemosError], type[CliError]], ...] = (
    (UnreachableError, Unreachable),
    (NotFoundError, NotFound),
    (InvalidInputError, UsageFault),
    (ConflictError, Conflict),
)


def cli_error(error: MnemosError) -> CliError:
    """The same sentence and code, with the exit status that goes with it."""
    kind = next((ours for theirs, ours in _KINDS if isinstance(error, theirs)), CliError)
    hint = None
    if error.code in ("model_not_found", "not_found"):
        hint = "see what there is with: mnemos models list"
    elif kind is Unreachable:
        hint = "start it with: mnemos up"
    field, request_id = None, None
    if isinstance(error, ApiError):
        field, request_id = error.field, error.request_id
    return kind(error.message, code=error.code, hint=hint, field=field, request_id=request_id)
