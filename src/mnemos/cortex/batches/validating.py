"""Whether a file is a batch at all: read once from end to end before anything runs."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from dataclasses import dataclass

from mnemos.engram.errors import ObjectNotFoundError

from .lines import LineProblemError, parse_line
from .objects import FileObjects, LineTooLongError
from .records import Batch, LineError

MAX_LINES = 50_000
MAX_ERRORS = 100
LINES_BETWEEN_PAUSES = 32


@dataclass(frozen=True, slots=True)
class Checked:
    """How many requests a file has, or what is wrong with it."""

    total: int
    errors: tuple[LineError, ...] = ()


async def validate(files: FileObjects, batch: Batch) -> Checked:
    """Read the batch's file; name the first lines that are no requests. Raises EngramError."""
    seen: dict[str, int] = {}
    errors: list[LineError] = []
    total = 0
    try:
        async with aclosing(files.lines(batch.input_file_id)) as lines:
            async for number, raw in lines:
                total = number
                if number > MAX_LINES:
                    errors.append(_too_many())
                    break
                _check(number, raw, batch.endpoint, seen, errors)
                if len(errors) >= MAX_ERRORS:
                    break
                if number % LINES_BETWEEN_PAUSES == 0:
                    await asyncio.sleep(0)  # others are served between
    except LineTooLongError as error:
        errors.append(LineError("line_too_long", str(error), error.line))
    except ObjectNotFoundError:
        errors.append(LineError("file_not_found", "The input file is not there any more."))
    if not errors and not total:
        errors.append(LineError("empty_file", "The input file has no lines."))
    return Checked(total, tuple(errors))


def _check(
    number: int, raw: bytes, endpoint: str, seen: dict[str, int], errors: list[LineError]
) -> None:
    try:
        line = parse_line(number, raw, endpoint)
    except LineProblemError as problem:
        errors.append(problem.error)
        return
    first = seen.setdefault(line.custom_id, number)
    if first != number:
        message = f"custom_id: {line.custom_id!r} is that of line {first} as well."
        errors.append(LineError("duplicate_custom_id", message, number, "custom_id"))


def _too_many() -> LineError:
    return LineError("too_many_lines", f"A batch has at most {MAX_LINES} lines.", MAX_LINES + 1)
