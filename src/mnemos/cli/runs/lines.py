"""The lines of a prompt file: what they may say, and what is wrong with one that may not."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from ..errors import CliError, UsageFault

MAX_LINE_BYTES = 8 * 1024 * 1024
MAX_ID_CHARS = 1024
MAX_DEPTH = 64
SAMPLING_WORDS = frozenset(
    {
        *("max_tokens", "temperature", "top_p", "top_k", "min_p", "stop", "seed", "raw"),
        *("logprobs", "json_schema", "regex", "adapter"),
    }
)
"""Parameters that people like to write beside the prompt instead of inside `parameters`."""


_TOO_DEEP = f"the line is nested more than {MAX_DEPTH} levels deep"


class Question(NamedTuple):
    """A line that can be asked: `input` is the API's JobInput, its parameters included."""

    id: str
    number: int
    input: dict[str, Any]


class BadLine(NamedTuple):
    """A line that cannot be asked, and why."""

    id: str
    number: int
    message: str


class Survey(NamedTuple):
    """What a whole prompt file is: its lines that are not blank, and its digest."""

    total: int
    sha256: str


class _BadLineError(ValueError):
    """Carries the sentence, and the id where the line has a sound one."""

    def __init__(self, message: str, line_id: str | None = None) -> None:
        super().__init__(message)
        self.line_id = line_id


def parse_line(number: int, raw: bytes) -> Question | BadLine:
    """Read one line: a JSON object with prompt or messages, or a JSON string.

    The id is the line's own, or its number; a line whose id cannot be known is `line-<number>`.
    """
    try:
        return _parse(number, raw)
    except _BadLineError as error:
        return BadLine(error.line_id or f"line-{number}", number, str(error))


def _parse(number: int, raw: bytes) -> Question:
    if len(raw) > MAX_LINE_BYTES:
        raise _BadLineError(f"the line is longer than {MAX_LINE_BYTES // 2**20} MiB")
    try:
        value = msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise _BadLineError(f"not JSON: {error}") from error
    except RecursionError as error:
        raise _BadLineError(_TOO_DEEP) from error
    if isinstance(value, str):
        value = {"prompt": value}
    if not isinstance(value, dict):
        raise _BadLineError("a line is an object with prompt or messages, or a string")
    line_id = _read_id(value, number)
    try:
        if _nests_deeper(value, MAX_DEPTH):
            raise _BadLineError(_TOO_DEEP)
        return Question(line_id, number, _read_input(value))
    except _BadLineError as error:
        raise _BadLineError(str(error), line_id if "id" in value else None) from error


def _nests_deeper(value: Any, levels: int) -> bool:
    level = [value]
    for _ in range(levels):
        level = [child for node in level for child in _children(node)]
        if not level:
            return False
    return True


def _children(node: Any) -> list[Any]:
    if isinstance(node, dict):
        return list(node.values())
    return node if isinstance(node, list) else []


def _read_id(value: dict[str, Any], number: int) -> str:
    line_id = value.get("id", str(number))
    if isinstance(line_id, int) and not isinstance(line_id, bool):
        line_id = str(line_id)
    if not isinstance(line_id, str) or not 0 < len(line_id) <= MAX_ID_CHARS:
        raise _BadLineError(f"id must be a text of 1 to {MAX_ID_CHARS} characters")
    return line_id


def _read_input(value: dict[str, Any]) -> dict[str, Any]:
    misplaced = sorted(SAMPLING_WORDS & value.keys())
    if misplaced:
        raise _BadLineError(f"{misplaced[0]} belongs inside parameters")
    given = [name for name in ("prompt", "messages") if value.get(name) is not None]
    if len(given) != 1:
        raise _BadLineError("give exactly one of prompt and messages")
    question: dict[str, Any] = {given[0]: _read_question(given[0], value[given[0]])}
    parameters = value.get("parameters")
    if not isinstance(parameters, dict | None):
        raise _BadLineError("parameters must be an object")
    context = value.get("context")
    if not isinstance(context, str | None):
        raise _BadLineError("context must be a text")
    if context is not None:
        question["context"] = context
    question["parameters"] = parameters or {}
    return question


def _read_question(name: str, value: Any) -> Any:
    kind, word = (str, "a text") if name == "prompt" else (list, "a list of messages")
    if not isinstance(value, kind):
        raise _BadLineError(f"{name} must be {word}")
    if not value:
        raise _BadLineError(f"{name} is empty")
    return value


def read_lines(path: Path) -> Iterator[Question | BadLine]:
    """All lines of a file in order, blank ones left out, one in memory at a time."""
    for number, raw in _raw_lines(path):
        yield parse_line(number, raw)


def _raw_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    with path.open("rb") as file:
        for number, raw in enumerate(file, start=1):
            line = raw.removeprefix(b"\xef\xbb\xbf") if number == 1 else raw
            if stripped := line.strip():
                yield number, stripped


def survey(path: Path) -> Survey:
    """Read a prompt file once before it is run.

    Raises UsageFault when two lines have the same id, naming both, or when there is no line.
    """
    first_seen: dict[str, int] = {}
    for line in _readable_lines(path):
        earlier = first_seen.setdefault(line.id, line.number)
        if earlier != line.number:
            raise UsageFault(
                f"Lines {earlier} and {line.number} of {path} have the same id {line.id!r}.",
                code="duplicate_id",
                hint="every line needs an id of its own (or none: then its number is its id)",
            )
    if not first_seen:
        raise UsageFault(f"{path} holds no line.", code="empty_file")
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return Survey(len(first_seen), digest)


def _readable_lines(path: Path) -> Iterator[Question | BadLine]:
    try:
        yield from read_lines(path)
    except OSError as error:
        raise CliError(f"Cannot read {path}: {error.strerror}.", code="os_error") from error
