"""Fetching one job's answer, wherever it lies."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from mnemos.cortex.big_results import (
    KIND_HEADER,
    REFERENCE,
    ResultObjects,
    StoredResult,
    read_reference,
)
from mnemos.engram.errors import EngramError

from .engram import engram_fault
from .errors import CliError
from .http import CortexClient

if TYPE_CHECKING:
    from .engram import EngramTarget


async def fetch_result(
    job_id: str, path: Path | None, engram: EngramTarget, cortex_url: str
) -> int:
    """Write a job's answer to `path`, or to stdout; return its size in bytes.

    Raises CliError; `path` is then as it was before.
    """
    size = 0
    with _target(path) as file:
        async with aclosing(_answer(job_id, engram, cortex_url)) as pieces:
            async for piece in pieces:
                file.write(piece)
                size += len(piece)
        if path is None:
            file.write(b"\n")
    return size


async def _answer(
    job_id: str, engram: EngramTarget, cortex_url: str
) -> AsyncGenerator[bytes, None]:
    stored = None
    async with CortexClient(cortex_url) as cortex, cortex.job_result(job_id) as response:
        if response.headers.get(KIND_HEADER) == REFERENCE:
            stored = read_reference((await response.aread()).decode(), job_id)
        if stored is None:
            async for piece in response.aiter_bytes():
                yield piece
            return
    async for piece in _from_engram(stored, engram):
        yield piece


async def _from_engram(stored: StoredResult, engram: EngramTarget) -> AsyncIterator[bytes]:
    objects = ResultObjects(engram.open(), stored.bucket)
    try:
        await objects.check(stored)
        async with aclosing(objects.read(stored)) as pieces:
            async for piece in pieces:
                yield piece
    except EngramError as error:
        raise engram_fault(error) from error


@contextlib.contextmanager
def _target(path: Path | None) -> Iterator[BinaryIO]:
    if path is None:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    part = path.with_name(f"{path.name}.part")
    try:
        with part.open("wb") as file:
            yield file
        part.replace(path)
    except OSError as error:
        raise CliError(
            f"Cannot write {path}: {error.strerror or error}.", code="os_error"
        ) from error
    finally:
        part.unlink(missing_ok=True)
