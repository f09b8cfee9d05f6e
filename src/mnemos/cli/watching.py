"""Following one job: its tokens as they come, its end, and the exit status that mirrors it."""

from __future__ import annotations

import asyncio
import re
import sys
import time
from collections.abc import Callable
from typing import Any

import click

from .errors import CliError, ExitCode, TimedOut, Unreachable
from .http import CortexClient
from .output import note

RECONNECT_SECONDS = 0.5
GIVE_UP_SECONDS = 120.0
SAME_STATE_SECONDS = 3.0

_EXIT_BY_STATUS = {
    "completed": ExitCode.OK,
    "timeout": ExitCode.TIMED_OUT,
}


def write_token(text: str) -> None:
    """Put text on stdout at once."""
    sys.stdout.write(text)
    sys.stdout.flush()


def ignore_state(_state: dict[str, Any]) -> None:
    """Say nothing of states."""


async def follow(
    cortex: CortexClient,
    job_id: str,
    *,
    on_token: Callable[[str], None] = write_token,
    on_state: Callable[[dict[str, Any]], None] = ignore_state,
) -> dict[str, Any]:
    """Hand on a job's events until it has ended; gives back the finished job.

    A broken connection is taken up after the last event, so that no token is lost or repeated.
    After a restart of the job, what was handed on before is void: a notice says so. Raises
    Unreachable once CORTEX has been gone for two minutes. Cancelling leaves the job alone.
    """
    last_id: str | None = None
    gone_since: float | None = None
    while True:
        try:
            async for event in cortex.job_events(job_id, last_id):
                gone_since = None
                last_id = event.id or last_id
                if event.event == "end":
                    ended: dict[str, Any] = event.data
                    return ended
                _hand_on(event.event, event.data, on_token, on_state)
        except (Unreachable, TimedOut) as error:
            now = time.monotonic()
            if gone_since is None:
                gone_since = now
                note(f"\n{error.message} Waiting for it; the job goes on.")
            elif now - gone_since > GIVE_UP_SECONDS:
                raise
        await asyncio.sleep(RECONNECT_SECONDS)


def _hand_on(
    kind: str,
    data: dict[str, Any],
    on_token: Callable[[str], None],
    on_state: Callable[[dict[str, Any]], None],
) -> None:
    if kind == "token":
        on_token(data["content"])
    elif kind == "state":
        on_state(data)
    elif kind == "restart":
        note(f"\n[the answer starts again: {data.get('reason') or 'a new attempt'}]")


class StatePrinter:
    """Prints states as dim lines on stderr; one that only counts on, no oftener than every 3 s."""

    def __init__(self) -> None:
        self._last_kind = ""
        self._last_time = 0.0

    def __call__(self, state: dict[str, Any]) -> None:
        """Print a state unless the person has just read it."""
        message = f": {state['message']}" if state.get("message") else ""
        worker = f" on {state['worker_id']}" if state.get("worker_id") else ""
        line = f"[{state['status']}{worker}{message}]"
        kind = re.sub(r"\d+ %", "", line)
        now = time.monotonic()
        if kind == self._last_kind and now - self._last_time < SAME_STATE_SECONDS:
            return
        self._last_kind, self._last_time = kind, now
        note(click.style(line, dim=True))


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
