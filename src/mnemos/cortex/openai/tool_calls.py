"""Reading the calls of tools out of what a model writes.

Models write calls as text, each family in its own form. All of them are told apart by how they
begin, so one reader does for every model and every runtime:

- `<tool_call>{"name": …, "arguments": {…}}</tool_call>`: Hermes, Qwen, SmolLM3 and others,
- `[TOOL_CALLS][{"name": …, "arguments": {…}}]` and `[TOOL_CALLS]name[ARGS]{…}`: Mistral,
- `{"name": …, "parameters": {…}}` and nothing else: Llama 3, and answers that are held to it.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..records import JobRecord

HERMES, HERMES_END = "<tool_call>", "</tool_call>"
MISTRAL = "[TOOL_CALLS]"
_PYTHON = "<|python_tag|>"
_MARKS = {"auto": (HERMES, MISTRAL), "hermes": (HERMES,), "mistral": (MISTRAL,)}
_ID_LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789"
_ID_LENGTH = 9
"""Mistral's chat templates take no other length."""
_NAME = re.compile(r"[\w.:/-]{1,128}")
_MISTRAL_CALL = re.compile(
    r"\s*([\w.:/-]{1,128})\s*(?:\[CALL_ID\][^\[]*)?(?:\[ARGS\])?\s*(\{.*)", re.DOTALL
)
_FIRST_KEY = re.compile(r'[\s\[]*\{\s*"([^"\\]*)"')
_KEYS_OF_CALLS = frozenset({"name", "arguments", "parameters", "type", "function", "id"})
_BETWEEN_CALLS = re.compile(r"[\s;,]*(?:<\|python_tag\|>)?\s*")


@dataclass(frozen=True, slots=True)
class Call:
    """A tool's name, and its arguments as JSON."""

    name: str
    arguments: str


Said = str | Call
"""Some text of an answer, or a call."""


@dataclass(frozen=True, slots=True)
class Calling:
    """What of a job is needed to read its answer."""

    names: frozenset[str]
    parser: str
    is_forced: bool
    """Whether the answer is held to be a call."""
    only_one: bool

    @classmethod
    def of(cls, job: JobRecord) -> Calling | None:
        """Of a job; None where no tools were given."""
        if '"tools":' not in (job.input or ""):
            return None  # long conversations need not be read once more
        parameters = json.loads(job.input or "{}").get("parameters") or {}
        if not (tools := parameters.get("tools")):
            return None
        config = json.loads(job.runtime_config or "{}")
        return cls(
            names=frozenset(tool["function"]["name"] for tool in tools),
            parser=config.get("tool_parser") or "auto",
            is_forced="json_schema" in parameters,
            only_one=json.loads(job.metadata or "{}").get("parallel_tool_calls") is False,
        )


class CallReader:
    """Reads one answer, in pieces however they are cut: what it gives is the same, joined.

    Text is given as soon as it can be no part of a call, a call when all of it is there.
    """

    def __init__(self, calling: Calling) -> None:
        self._calling = calling
        self._marks = () if calling.is_forced else _MARKS.get(calling.parser, ())
        self._takes_json = calling.is_forced or calling.parser in ("auto", "llama3_json")
        self._held = ""
        self._mode = self._begin
        self._calls = 0
        self._is_quiet = True
        """Nothing was said yet, or nothing since the last call: what comes may be a gap."""

    def feed(self, text: str) -> list[Said]:
        """What is certain now."""
        self._held += text
        return self._told(ended=False)

    def end(self) -> list[Said]:
        """The rest: there is no more text."""
        return self._told(ended=True)

    def _told(self, *, ended: bool) -> list[Said]:
        said: list[Said] = []
        while (step := self._mode(ended=ended)) is not None:
            said += [one for one in step if self._is_wanted(one)]
        return said

    def _is_wanted(self, one: Said) -> bool:
        if isinstance(one, str):
            self._is_quiet = False
            return bool(one)
        self._is_quiet = True
        self._calls += 1
        return not (self._calling.only_one and self._calls > 1)

    # Each of these takes from what is held; None: it needs more, or there is no more.

    def _begin(self, *, ended: bool) -> list[Said] | None:
        """See by its first letters what the answer is."""
        begun = self._held.lstrip()
        starts = (*self._marks, _PYTHON) if self._takes_json else self._marks
        if not ended and any(start.startswith(begun) for start in starts):
            return None
        self._mode = self._text
        bare = begun.removeprefix(_PYTHON).lstrip()
        if self._takes_json and bare.startswith(("{", "[")) and not bare.startswith(self._marks):
            self._mode = self._json
        return []

    def _text(self, *, ended: bool) -> list[Said] | None:
        """Give text, up to where a call begins. White space around calls is no text."""
        found = [(at, mark) for mark in self._marks if (at := self._held.find(mark)) >= 0]
        if found:
            at, mark = min(found)
            self._mode = self._hermes if mark == HERMES else self._mistral
            return self._take(at, is_gap_told=False)
        size = len(self._held) - (0 if ended else _begun_mark(self._held, self._marks))
        if self._is_quiet and not ended and not self._held[:size].strip():
            return None
        return self._take(size, is_gap_told=not self._calls) or None

    def _hermes(self, *, ended: bool) -> list[Said] | None:
        """Take one call with its marks; without its end mark at the end of the answer."""
        end = self._held.find(HERMES_END)
        while end >= 0:
            if calls := _calls_in(self._held[len(HERMES) : end]):
                self._held = self._held[end + len(HERMES_END) :]
                self._mode = self._text
                return list(calls)
            end = self._held.find(HERMES_END, end + 1)
        if not ended or not self._held:
            return None
        calls = _calls_in(self._held[len(HERMES) :])
        return self._close(calls)

    def _mistral(self, *, ended: bool) -> list[Said] | None:
        """Take all calls, at the end of the answer: nothing else says where they end."""
        if not ended or not self._held:
            return None
        calls: list[Call] = []
        for part in self._held.split(MISTRAL)[1:]:
            if not (read := _mistral_calls(part)):
                return self._close([])
            calls += read
        return self._close(calls)

    def _json(self, *, ended: bool) -> list[Said] | None:
        """Take calls, at the end of the answer, if it consists of nothing else."""
        first = _FIRST_KEY.match(self._held.lstrip().removeprefix(_PYTHON))
        if first is not None and first[1] not in _KEYS_OF_CALLS:
            self._mode = self._text
            return []
        if not ended or not self._held:
            return None
        calls = _calls_in(self._held)
        names = self._calling.names
        return self._close(calls if all(call.name in names for call in calls) else [])

    def _close(self, calls: Sequence[Call]) -> list[Said]:
        """End with calls, or with what was no call after all."""
        rest, self._held = self._held, ""
        return list(calls) or [rest]

    def _take(self, size: int, *, is_gap_told: bool) -> list[Said]:
        taken, self._held = self._held[:size], self._held[size:]
        is_gap = self._is_quiet and not taken.strip()
        return [taken] if taken and (is_gap_told or not is_gap) else []


def call_id(job_id: str, choice: int, index: int) -> str:
    """The id of a call: the same whenever the answer is told."""
    digest = hashlib.sha256(f"{job_id}/{choice}/{index}".encode()).digest()
    return "".join(_ID_LETTERS[byte % len(_ID_LETTERS)] for byte in digest[:_ID_LENGTH])


def _begun_mark(text: str, marks: Sequence[str]) -> int:
    """How many letters at the end may become a mark."""
    longest = max(map(len, marks), default=1)
    for size in range(min(longest - 1, len(text)), 0, -1):
        if any(mark.startswith(text[-size:]) for mark in marks):
            return size
    return 0


def _calls_in(text: str) -> list[Call]:
    """The calls that a text consists of; none if it says anything else."""
    calls: list[Call] = []
    at = _skip(text, 0)
    while at < len(text):
        try:
            value, at = json.JSONDecoder().raw_decode(text, at)
        except (ValueError, RecursionError):
            return []
        read = [_call_of(one) for one in (value if isinstance(value, list) else [value])]
        if not all(read):
            return []
        calls += [one for one in read if one is not None]
        at = _skip(text, at)
    return calls


def _skip(text: str, at: int) -> int:
    found = _BETWEEN_CALLS.match(text, at)
    return found.end() if found else at


def _mistral_calls(part: str) -> list[Call]:
    if part.lstrip().startswith("["):
        return _calls_in(part)
    found = _MISTRAL_CALL.fullmatch(part)
    if found is None:
        return []
    try:
        arguments = json.loads(found[2])
    except (ValueError, RecursionError):
        return []
    call = _call_of({"name": found[1], "arguments": arguments})
    return [call] if call else []


def _call_of(value: Any) -> Call | None:
    """A call that a model wrote as an object; None if it is no call."""
    if not isinstance(value, dict):
        return None
    if isinstance(function := value.get("function"), dict):
        value = function
    name = value.get("name")
    arguments = value.get("arguments", value.get("parameters"))
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        return None
    if isinstance(arguments, str):
        arguments = _object_in(arguments)
    if not isinstance(arguments, dict):
        return None
    try:
        return Call(name, _json_text(arguments))
    except ValueError:  # a number that JSON does not have
        return None


def _object_in(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _json_text(arguments: dict[str, Any]) -> str:
    text = json.dumps(arguments, ensure_ascii=False, allow_nan=False)
    try:
        text.encode()
    except UnicodeEncodeError:  # half a character, which only an escape can tell
        return json.dumps(arguments, allow_nan=False)
    return text


def call_told(call: Call, job_id: str, choice: int, index: int) -> dict[str, Any]:
    """A call as a message tells it."""
    function = {"name": call.name, "arguments": call.arguments}
    return {"id": call_id(job_id, choice, index), "type": "function", "function": function}
