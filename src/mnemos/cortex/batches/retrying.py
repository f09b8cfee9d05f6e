"""The lines of a batch that were not answered, as the input of another."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import aclosing

from .objects import FileObjects
from .records import Batch

PIECE_BYTES = 1024 * 1024
LINES_BETWEEN_PAUSES = 64


async def failed_lines(files: FileObjects, batch: Batch) -> AsyncGenerator[bytes, None]:
    """Yield the input's lines whose `custom_id` is in the batch's file of errors; to be closed.

    They come as they stood, in their order, many in a piece. Raises EngramError.
    """
    failed = await _custom_ids(files, batch.error_file_id)
    waiting: list[bytes] = []
    size = 0
    async with aclosing(files.lines(batch.input_file_id)) as lines:
        async for number, raw in lines:
            if json.loads(raw)["custom_id"] in failed:
                waiting.append(raw.rstrip(b"\r") + b"\n")
                size += len(raw)
            if size >= PIECE_BYTES:
                yield b"".join(waiting)
                waiting, size = [], 0
            if number % LINES_BETWEEN_PAUSES == 0:
                await asyncio.sleep(0)  # others are served between
    if waiting:
        yield b"".join(waiting)


async def _custom_ids(files: FileObjects, file_id: str) -> set[str]:
    found: set[str] = set()
    async with aclosing(files.lines(file_id)) as lines:
        async for number, raw in lines:
            found.add(json.loads(raw)["custom_id"])
            if number % LINES_BETWEEN_PAUSES == 0:
                await asyncio.sleep(0)
    return found
