"""`mnemos up` as a child process, for as long as a block of code needs it."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import time
from asyncio.subprocess import DEVNULL, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from ..errors import CliError
from .options import Addresses
from .worker_process import end_with_parent

START_SECONDS = 60.0
STOP_SECONDS = 60.0
POLL_SECONDS = 0.05
LAST_WORDS = 5


@asynccontextmanager
async def background_platform(data_dir: Path) -> AsyncIterator[Addresses]:
    """Run a platform on free ports until the block is left, however it is left.

    On leaving it is asked to stop, and killed when it does not within a minute; no process of
    it is left. Raises CliError, with its last words, when it does not start.
    """
    log = data_dir / "logs" / "up.log"
    process = await _start(data_dir, log)
    try:
        yield await _wait_until_ready(process, data_dir / "up.json", log)
    finally:
        await _stop(process)


async def _start(data_dir: Path, log: Path) -> Process:
    command = [sys.executable, "-m", "mnemos.cli", "up", "--quiet", "--data-dir", str(data_dir)]
    for flag in ("--http-port", "--grpc-port", "--genome-port", "--worker-port"):
        command += [flag, "0"]
    await asyncio.to_thread(log.parent.mkdir, parents=True, exist_ok=True)
    with await asyncio.to_thread(log.open, "wb") as file:
        return await asyncio.create_subprocess_exec(
            *command,
            stdin=DEVNULL,
            stdout=file,
            stderr=file,
            start_new_session=True,
            preexec_fn=end_with_parent,
        )


async def _wait_until_ready(process: Process, state_file: Path, log: Path) -> Addresses:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if process.returncode is not None:
            break
        where = await asyncio.to_thread(_read_state, state_file, process.pid)
        if where is not None:
            return where
        await asyncio.sleep(POLL_SECONDS)
    words = (await asyncio.to_thread(log.read_text, errors="replace")).strip().splitlines()
    raise CliError(
        f"The platform did not start: {' '.join(words[-LAST_WORDS:]) or 'it said nothing'}",
        code="start_failed",
        hint=f"its log is {log}",
    )


def _read_state(path: Path, pid: int) -> Addresses | None:
    """The addresses, once they are those of this very process."""
    try:
        state = json.loads(path.read_text())
    except (FileNotFoundError, ValueError):
        return None
    return Addresses(**state) if state.pop("pid", None) == pid else None


async def _stop(process: Process) -> None:
    if process.returncode is not None:
        return
    process.send_signal(signal.SIGTERM)
    try:
        async with asyncio.timeout(STOP_SECONDS):
            await process.wait()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
