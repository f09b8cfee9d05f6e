"""A job's log as the wire brings it: events cut out of bytes, and where to go on after a cut."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from .errors import AnswerRestartedError
from .infos import JobInfo, Token, job_info
from .wire import Call, stream_call

LOG_PRUNED = "log_pruned"
"""What CORTEX says of a job that has ended so long ago that its log is gone; the job is not."""

OnRestart = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Event:
    """One line of a job's log; `sequence` is -1 for the end, which is no line."""

    sequence: int
    kind: str
    data: Mapping[str, Any]


class EventCutter:
    """Cuts bytes into events; only a line feed ends a line, whatever the text holds."""

    def __init__(self) -> None:
        self._rest = b""
        self._fields: dict[bytes, bytes] = {}

    def feed(self, chunk: bytes) -> Iterator[Event]:
        """Take the next bytes; yield the events that are whole now."""
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        for line in lines:
            if line:
                name, _, value = line.partition(b": ")
                self._fields[name] = value
                continue
            given, self._fields = self._fields, {}
            if b"data" in given:
                yield Event(
                    int(given.get(b"id", b"-1")),
                    given.get(b"event", b"message").decode(),
                    msgspec.json.decode(given[b"data"]),
                )


class Follower:
    """What was read of a job's log so far, over any number of connections.

    `ended` is the job once its end was told.
    """

    def __init__(self, job_id: str, after: int = -1) -> None:
        self.job_id = job_id
        self._cutter = EventCutter()
        self.after = after
        self.ended: JobInfo | None = None

    def has_ended(self) -> bool:
        """Whether the end was told."""
        return self.ended is not None

    def call(self) -> Call:
        """Ask for what was not read yet, on a new connection."""
        self._cutter = EventCutter()
        return stream_call(self.job_id, self.after + 1)

    def feed(self, chunk: bytes) -> Iterator[Event]:
        """Take the next bytes; yield the events of the log, each once."""
        for event in self._cutter.feed(chunk):
            if event.kind == "end":
                self.ended = job_info(event.data)
            elif event.sequence > self.after:
                self.after = event.sequence
                yield event


class TokenReader:
    """Finds an answer's pieces among the events of its job."""

    def __init__(self, job_id: str, on_restart: OnRestart | None, *, after: int) -> None:
        self._job_id = job_id
        self._on_restart = on_restart
        self._came = after >= 0

    def read(self, event: Event) -> Iterator[Token]:
        """Yield what an event brings. Raises AnswerRestartedError where nobody listens for it."""
        if event.kind == "token":
            self._came = True
            data = event.data
            ids = tuple(data.get("token_ids", ()))
            yield Token(data["content"], ids, data.get("attempt", 0), event.sequence)
        elif event.kind == "restart":
            self._restart(event)

    def _restart(self, event: Event) -> None:
        reason = str(event.data.get("reason") or "a new attempt")
        if not self._came:
            return  # nobody has read what is void
        self._came = False
        if self._on_restart is None:
            sentence = f"The answer of {self._job_id} began anew: {reason}."
            raise AnswerRestartedError(sentence, sequence=event.sequence, job_id=self._job_id)
        self._on_restart(reason)

    def rest(self, job: JobInfo, after: int) -> Iterator[Token]:
        """The whole answer in one piece, of a job that was not asked to stream it."""
        if not self._came and isinstance(job.result, str) and job.result:
            yield Token(job.result, (), job.attempt, after)
