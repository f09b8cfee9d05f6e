"""Following one job: its tokens as they come, its end, and the exit status that mirrors it."""

from __future__ import annotations

import asyncio
import re
import sys
import time
from dataclasses import dataclass
from typing import Any

import click

from .errors import CliError, ExitCode, NotFound, TimedOut, Unreachable
from .http import CortexClient, first_error
from .output import note
from .runs.waiting import WhyWaiting

RECONNECT_SECONDS = 0.5
GIVE_UP_SECONDS = 120.0
SAME_STATE_SECONDS = 3.0
LOOK_SECONDS = 1.0
QUIET_SECONDS = 5.0
"""After so long without an event CORTEX is asked what the job waits for."""

_COUNTS = re.compile(r",?\s*\d+ (%|(rows?|s|min|h)\b)( left| so far)?")

LOG_PRUNED = "log_pruned"

_EXIT_BY_STATUS = {
    "completed": ExitCode.OK,
    "timeout": ExitCode.TIMED_OUT,
}


class Listener:
    """What a follower is told of a job; this one says nothing but that an answer starts again."""

    def on_token(self, text: str) -> None:
        """Take a piece of the answer."""

    def on_state(self, state: dict[str, Any]) -> None:
        """Take a change of state."""

    def on_row(self, row: dict[str, Any]) -> None:
        """Take a finished row: its index and its result."""

    def on_restart(self, reason: str) -> None:
        """Hear that everything before this is void."""
        note(f"\n[the answer starts again: {reason}]")

    def on_waiting(self, sentence: str) -> None:
        """Hear what the job waits for, when nothing has come for a while."""


class TokenWriter(Listener):
    """Puts the answer on stdout, each piece at once."""

    def __init__(self) -> None:
        self.has_shown_tokens = False

    def on_token(self, text: str) -> None:
        """Write it and flush."""
        self.has_shown_tokens = True
        sys.stdout.write(text)
        sys.stdout.flush()

    def on_waiting(self, sentence: str) -> None:
        """Say it dimly."""
        note(click.style(f"[{sentence}]", dim=True))


class Printer(TokenWriter):
    """Tells a person how a job goes on: states and rows on stderr, tokens on stdout if wanted."""

    def __init__(self, *, show_tokens: bool) -> None:
        super().__init__()
        self._show_tokens = show_tokens
        self._states = _DimLines()
        self._rows_done: set[int] = set()

    def on_token(self, text: str) -> None:
        """Write it, unless only the end is wanted."""
        if self._show_tokens:
            super().on_token(text)

    def on_state(self, state: dict[str, Any]) -> None:
        """Print it; where it says nothing itself, with the rows that are done by then."""
        rows = f", {len(self._rows_done)} rows done" if self._rows_done else ""
        message = f": {state['message']}" if state.get("message") else rows
        worker = f" on {state['worker_id']}" if state.get("worker_id") else ""
        self._states.say(f"[{state['status']}{worker}{message}]")

    def on_row(self, row: dict[str, Any]) -> None:
        """Count it."""
        self._rows_done.add(row["index"])
        count = len(self._rows_done)
        self._states.say(f"[{count} row{'s' if count > 1 else ''} done]")

    def on_restart(self, reason: str) -> None:
        """Count from nought again."""
        self._rows_done.clear()
        super().on_restart(reason)


class _DimLines:
    """Dim lines on stderr; one that only counts on, no oftener than every 3 s."""

    def __init__(self) -> None:
        self._last_kind = ""
        self._last_time = 0.0

    def say(self, line: str) -> None:
        """Print a line unless the person has just read it."""
        kind = _COUNTS.sub("", line)
        now = time.monotonic()
        if kind == self._last_kind and now - self._last_time < SAME_STATE_SECONDS:
            return
        self._last_kind, self._last_time = kind, now
        note(click.style(line, dim=True))


async def follow(cortex: CortexClient, job_id: str, listener: Listener) -> dict[str, Any]:
    """Hand on a job's events until it has ended; gives back the finished job.

    A broken connection is taken up after the last event, so that no token is lost or repeated.
    Raises Unreachable once CORTEX has been gone for two minutes. Cancelling leaves the job alone.
    """
    heard = _Heard()
    try:
        async with asyncio.TaskGroup() as group:
            asking = group.create_task(_ask_why(cortex, job_id, listener, heard))
            ended = await _hear(cortex, job_id, listener, heard)
            asking.cancel()
    except BaseExceptionGroup as errors:
        raise first_error(errors) from errors
    return ended


@dataclass(slots=True)
class _Heard:
    """How many events came."""

    count: int = 0


async def _ask_why(cortex: CortexClient, job_id: str, listener: Listener, heard: _Heard) -> None:
    """Say what the job waits for whenever nothing has come for a while, until cancelled."""
    why = WhyWaiting(cortex, listener.on_waiting, quiet_seconds=QUIET_SECONDS, pending_only=True)
    while True:
        await why.look(job_id, heard.count)
        await asyncio.sleep(LOOK_SECONDS)


async def _hear(
    cortex: CortexClient, job_id: str, listener: Listener, heard: _Heard
) -> dict[str, Any]:
    last_id: str | None = None
    gone_since: float | None = None
    while True:
        try:
            async for event in cortex.job_events(job_id, last_id):
                gone_since = None
                heard.count += 1
                last_id = event.id or last_id
                if event.event == "end":
                    ended: dict[str, Any] = event.data
                    return ended
                _hand_on(event.event, event.data, listener)
        except (Unreachable, TimedOut) as error:
            now = time.monotonic()
            if gone_since is None:
                gone_since = now
                note(f"\n{error.message} Waiting for it; the job goes on.")
            elif now - gone_since > GIVE_UP_SECONDS:
                raise
        except NotFound as error:
            if error.code != LOG_PRUNED:
                raise
            job = await cortex.job(job_id)
            if job["finished_at"]:
                return job
        await asyncio.sleep(RECONNECT_SECONDS)


def _hand_on(kind: str, data: dict[str, Any], listener: Listener) -> None:
    if kind == "token":
        listener.on_token(data["content"])
    elif kind == "state":
        listener.on_state(data)
    elif kind == "row":
        listener.on_row(data)
    elif kind == "restart":
        listener.on_restart(data.get("reason") or "a new attempt")


def exit_code_of(job: dict[str, Any]) -> int:
    """The exit status that mirrors a finished job."""
    return _EXIT_BY_STATUS.get(job["status"], ExitCode.FAILED)


def failure(job: dict[str, Any]) -> CliError:
    """The error that a job ended with, as JSON mode tells it."""
    code = str((job.get("error") or {}).get("code") or job["status"])
    return CliError(failure_sentence(job), code=code)


def failure_sentence(job: dict[str, Any]) -> str:
    """Why a job did not complete."""
    error = job.get("error") or {}
    reason = f": {error['message']} ({error['code']})" if error.get("message") else "."
    return f"The job {job['job_id']} is {job['status']}{reason}"
