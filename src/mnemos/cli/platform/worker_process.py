"""One NEURON worker as a child process: started, started again with back-off, ended."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO

from .options import Addresses, UpOptions

FIRST_PAUSE_SECONDS = 1.0
LONGEST_PAUSE_SECONDS = 30.0
HEALTHY_AFTER_SECONDS = 60.0
KILL_AFTER_SECONDS = 10.0
"""How much longer than its drain a worker may take before it is killed."""
HURRY_SECONDS = 5.0
LONGEST_LINE = 16384

EXIT_CLEAN = 0
EXIT_RESTART = 75
EXIT_CONFIG = 78

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


def end_with_parent() -> None:
    """Run in a child before it becomes another program: SIGKILL when its parent is gone.

    The parent is CORTEX too: with it gone there is nobody to hand jobs back to, and whoever starts
    it again at once wants the ports back. Linux only.
    """
    if _libc is not None:
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


class WorkerProcess:
    """Keeps worker number `index` running.

    `run()` returns when the worker has ended for good: after `stop()`, after a clean exit that
    it was asked for elsewhere, or when its settings cannot work. Cancelling `run()` kills it.
    """

    def __init__(
        self,
        index: int,
        options: UpOptions,
        where: Addresses,
        say: Callable[[str], None],
        tokens: Mapping[str, str] | None = None,
    ) -> None:
        self.name = f"worker-{index + 1}"
        self._options = options
        self._environment = worker_environment(index, options, where) | dict(tokens or {})
        self._say = say
        self._process: asyncio.subprocess.Process | None = None
        self._stopping = asyncio.Event()

    async def run(self) -> None:
        """Start the worker, and again whenever it dies."""
        pause = FIRST_PAUSE_SECONDS
        while not self._stopping.is_set():
            started = time.monotonic()
            status = await self._live()
            if self._stopping.is_set() or not self._comes_back(status):
                return
            if time.monotonic() - started > HEALTHY_AFTER_SECONDS:
                pause = FIRST_PAUSE_SECONDS
            if status != EXIT_RESTART:
                await self._pause(pause)
                pause = min(2 * pause, LONGEST_PAUSE_SECONDS)

    def stop(self) -> None:
        """Ask the worker to drain; a second call asks it to stop at once."""
        again = self._stopping.is_set()
        self._stopping.set()
        process = self._process
        if process is None or process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        if again:
            asyncio.get_running_loop().call_later(HURRY_SECONDS, self._kill)

    def _comes_back(self, status: int) -> bool:
        if status == EXIT_CLEAN:
            self._say(f"{self.name} has ended as it was asked to.")
            return False
        if status == EXIT_CONFIG:
            log = f" Its log is {self._log_path}." if self._options.quiet else ""
            self._say(
                f"{self.name} cannot work with its settings (exit 78); not started again.{log}"
            )
            return False
        if status != EXIT_RESTART:
            self._say(f"{self.name} died ({_cause(status)}); starting it again.")
        return True

    async def _pause(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stopping.wait()

    async def _live(self) -> int:
        """One life of the process; no process is left behind, whatever happens."""
        log = self._open_log() if self._options.quiet else None
        try:
            # With a file, the child writes into it itself; nothing has to be carried.
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "neuron.worker",
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log or asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                env=self._environment,
                start_new_session=True,
                preexec_fn=end_with_parent,
                limit=LONGEST_LINE,
            )
        finally:
            if log is not None:
                log.close()
        self._process = process
        try:
            if self._stopping.is_set():
                process.terminate()
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._carry_lines(process), name=f"{self.name}-log")
                status = await self._wait(process)
        finally:
            self._kill()
        return status

    async def _wait(self, process: asyncio.subprocess.Process) -> int:
        """Wait for the end; after `stop()`, no longer than the drain and a little."""
        async with asyncio.TaskGroup() as tasks:
            guard = tasks.create_task(self._kill_after_drain(), name=f"{self.name}-guard")
            status = await process.wait()
            guard.cancel()
        return status

    async def _kill_after_drain(self) -> None:
        await self._stopping.wait()
        await asyncio.sleep(self._options.drain_seconds + KILL_AFTER_SECONDS)
        self._say(f"{self.name} did not end in time; killing it.")
        self._kill()

    def _kill(self) -> None:
        process = self._process
        if process is not None and process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()

    async def _carry_lines(self, process: asyncio.subprocess.Process) -> None:
        if process.stdout is None:
            return
        while True:
            try:
                line = await process.stdout.readuntil(b"\n")
            except asyncio.LimitOverrunError as error:
                line = await process.stdout.readexactly(error.consumed)
            except asyncio.IncompleteReadError as error:
                if error.partial:
                    self._say_line(error.partial)
                return
            self._say_line(line)

    def _say_line(self, line: bytes) -> None:
        self._say(f"{self.name} | {line.decode('utf-8', 'replace').rstrip()}")

    def _open_log(self) -> IO[bytes]:
        self._options.logs_dir.mkdir(parents=True, exist_ok=True)
        return self._log_path.open("ab")

    @property
    def _log_path(self) -> Path:
        return self._options.logs_dir / f"{self.name}.log"


def worker_environment(index: int, options: UpOptions, where: Addresses) -> dict[str, str]:
    """NEURON_* as the worker reads them; what else the person has set is passed on."""
    port = options.worker_port + index if options.worker_port else 0
    environment = dict(os.environ)
    environment.update(options.engram.worker_environment)
    environment.update(
        NEURON_CORTEX_GRPC_URL=where.cortex_grpc,
        NEURON_GENOME_HTTP_URL=where.genome_url,
        NEURON_MAX_CONCURRENT_JOBS=str(options.max_concurrent_jobs),
        NEURON_MODEL_CACHE_DIR=str(options.data_dir / "workers" / "models"),
        NEURON_API_HOST=options.host,
        NEURON_API_PORT=str(port),
        NEURON_SHUTDOWN_TIMEOUT=str(options.drain_seconds),
        PYTHONUNBUFFERED="1",
    )
    environment.setdefault("NEURON_LOG_FORMAT", "json" if options.quiet else "console")
    if not sys.stderr.isatty():
        environment["NO_COLOR"] = "1"
    environment.setdefault("NEURON_MAX_BATCH_SIZE", str(max(32, options.max_concurrent_jobs)))
    return environment


def _cause(status: int) -> str:
    if status >= 0:
        return f"exit {status}"
    with contextlib.suppress(ValueError):
        return signal.Signals(-status).name
    return f"signal {-status}"
