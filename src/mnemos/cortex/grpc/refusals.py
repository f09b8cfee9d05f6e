"""How a call that failed is ended: the status that tells the worker what to do next."""

from __future__ import annotations

from typing import Any

import grpc
import grpc.aio
import structlog

from ..errors import CortexError, StorageUnavailableError, WorkerUnknownError
from .incoming import RefusedError

Context = grpc.aio.ServicerContext[Any, Any]
_log = structlog.get_logger(__name__)


def status_of(error: Exception) -> tuple[grpc.StatusCode, str]:
    """Return the status and its details; what nobody foresaw is logged."""
    if isinstance(error, WorkerUnknownError):
        return grpc.StatusCode.NOT_FOUND, f"worker_unknown: {error.message} Register again."
    if isinstance(error, StorageUnavailableError):
        return grpc.StatusCode.UNAVAILABLE, f"{error.code}: {error.message}"
    if isinstance(error, RefusedError):
        return grpc.StatusCode.INVALID_ARGUMENT, f"invalid_input: {error}"
    if isinstance(error, CortexError):
        return grpc.StatusCode.FAILED_PRECONDITION, f"{error.code}: {error.message}"
    _log.error("grpc.unhandled_error", exc_info=error)
    return grpc.StatusCode.INTERNAL, f"internal: {type(error).__name__}"


async def abort(context: Context, error: Exception) -> None:
    """End the call so."""
    await context.abort(*status_of(error))
