"""What an input schema is about: one input of a model, whether it came alone or among rows.

A text or a conversation is checked as the `input` of a job of its own, so that one schema does for
single jobs and for rows; a row of tensors as it is written.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Path = Sequence[str | int]
_ROWS = ("input", "inputs")
_SHARED = ("parameters", "context")
"""What rows without their own take from the job."""


@dataclass(frozen=True, slots=True)
class Instance:
    """One input; `pointer` finds a place in it again in the request's body."""

    value: Any
    row: int | None = None
    written: Any = None
    """The row as it came."""

    def pointer(self, path: Path) -> str:
        """An RFC 6901 pointer into the request's body."""
        return as_pointer(self._place(path))

    def _place(self, path: Path) -> Path:
        if self.row is None:
            return ("input", *path)
        if path and path[0] in _SHARED and not _is_there(self.written, path):
            return ("input", *path)
        if isinstance(self.written, str):
            return (*_ROWS, self.row)
        return (*_ROWS, self.row, *path)


def instances_of(given: Mapping[str, Any], *, tensors: bool, scored: bool) -> Iterator[Instance]:
    """Yield what is to be checked of a job's input.

    `tensors` says that rows without a prompt are tensors, `scored` that rows bring references.
    """
    rows = given.get("inputs")
    if rows is None:
        yield Instance(given)
        return
    for number, row in enumerate(rows):
        yield Instance(_as_input(row, given, tensors=tensors, scored=scored), number, row)


def as_pointer(path: Path) -> str:
    """Write a path as RFC 6901 does."""
    return "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in path)


def _as_input(row: Any, given: Mapping[str, Any], *, tensors: bool, scored: bool) -> Any:
    if isinstance(row, str):
        row = {"prompt": row}
    if not isinstance(row, dict):
        return row
    left_out = {"id"} if isinstance(row.get("id"), str) or not tensors else set()
    if scored:
        left_out.add("reference")
    own = {name: value for name, value in row.items() if name not in left_out}
    if tensors and "prompt" not in row and "messages" not in row:
        return own
    shared = {name: given[name] for name in _SHARED if name in given}
    return {**shared, **own, "parameters": _parameters(given) | _parameters(own)}


def _parameters(given: Mapping[str, Any]) -> dict[str, Any]:
    parameters = given.get("parameters")
    return parameters if isinstance(parameters, dict) else {}


def _is_there(node: Any, path: Path) -> bool:
    """Whether a path leads somewhere; what is missing is looked for where it should be."""
    for part in path:
        try:
            node = node[part]
        except (LookupError, TypeError):
            return False
    return True
