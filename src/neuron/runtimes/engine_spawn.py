"""How an engine process is started, and what is kept of its last words."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import sys
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

from .engine_guard import END

MODULE = "neuron.runtimes.engine_process"
KEPT_LINES = 50
_FORCE_SECONDS = 3.0
"""How long a guard may take to end everything; then its process group is killed."""
_MAX_LINE_BYTES = 8192
_PACKAGE_DIR = Path(__file__).resolve().parent.parent
_SECRET_NAME = re.compile(
    r"^(NEURON|MNEMOS|AWS|MINIO)_|TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIAL|_KEY"
)
_ENGINE_ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "PYTHONUNBUFFERED": "1",
    "PYTHONSAFEPATH": "1",
}
# On a busy machine torch's threads, left alone, spend their time slices spinning at barriers for
# one another: ten times slower where other processes want the same CPUs.
_PATIENT_THREADS = {"GOMP_SPINCOUNT": "2000"}
# Another environment must not see our site-packages, so only this package is put in reach.
_BOOTSTRAP = (
    "import runpy, sys, types; "
    "package = types.ModuleType('neuron'); package.__path__ = [sys.argv.pop(1)]; "
    "sys.modules['neuron'] = package; "
    f"runpy.run_module('{MODULE}', run_name='__main__', alter_sys=True)"
)


@dataclass(frozen=True, slots=True)
class EngineLogLine:
    """A line that an engine printed."""

    stream: Literal["stdout", "stderr"]
    text: str


def engine_command(python: str | None, control_fd: int, data_fd: int) -> list[str]:
    """The command line of an engine, on the given interpreter or on this one."""
    arguments = ["--control-fd", str(control_fd), "--data-fd", str(data_fd)]
    arguments += ["--parent-pid", str(os.getpid())]
    if python is None or python == sys.executable:
        return [sys.executable, "-m", MODULE, *arguments]
    return [python, "-c", _BOOTSTRAP, str(_PACKAGE_DIR), *arguments]


def engine_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """The worker's environment without its secrets, and with no way to a model hub."""
    kept = {name: value for name, value in environment.items() if not _SECRET_NAME.search(name)}
    patience = {} if "OMP_WAIT_POLICY" in environment else _PATIENT_THREADS
    return patience | kept | _ENGINE_ENVIRONMENT


def describe_exit(returncode: int) -> str:
    """How a process ended, for a person."""
    if returncode >= 0:
        return f"exit status {returncode}"
    try:
        name = signal.Signals(-returncode).name
    except ValueError:
        return f"signal {-returncode}"
    hint = ", perhaps for want of memory" if name == "SIGKILL" else ""
    return f"signal {-returncode}, {name}{hint}"


class EngineProcess(asyncio.SubprocessProtocol):
    """A started engine, by its guard: its output, line by line, and its end.

    `closed` is set when the process has been reaped and its output read to the end, or half a
    second after the former: a grandchild may hold the pipe open.
    """

    def __init__(self, on_log: Callable[[EngineLogLine], None] | None) -> None:
        self.closed = asyncio.Event()
        self.last_lines: deque[str] = deque(maxlen=KEPT_LINES)
        self.returncode: int | None = None
        self.pid: int | None = None
        self.killed = False
        """Whether we ended it: then the signal it died of is no news."""
        self._on_log = on_log
        self._partial: dict[int, bytes] = {}
        self._callbacks: list[Callable[[], None]] = []
        self._transport: asyncio.SubprocessTransport | None = None

    async def spawn(self, command: list[str], pass_fds: tuple[int, ...]) -> None:
        """Start the process, in a session of its own: a Ctrl-C for the worker is not for it."""
        await asyncio.get_running_loop().subprocess_exec(
            lambda: self,
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=engine_environment(os.environ),
            pass_fds=pass_fds,
            start_new_session=True,
        )

    def when_closed(self, callback: Callable[[], None]) -> None:
        """Call back once the process is gone; at once if it is."""
        if self.closed.is_set():
            callback()
        else:
            self._callbacks.append(callback)

    def kill(self) -> None:
        """End the engine now and all that it started; nothing if it has been reaped."""
        if self.pid is not None and self.returncode is None and not self.killed:
            self.killed = True
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, END)
            asyncio.get_running_loop().call_later(_FORCE_SECONDS, self._kill_group)

    def _kill_group(self) -> None:
        if self.pid is not None and self.returncode is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are not instances of asyncio's classes.
        self._transport = cast(asyncio.SubprocessTransport, transport)
        self.pid = self._transport.get_pid()

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        *lines, rest = (self._partial.get(fd, b"") + data).split(b"\n")
        if len(rest) > _MAX_LINE_BYTES:
            lines.append(rest)
            rest = b""
        self._partial[fd] = rest
        for line in lines:
            self._line(fd, line)

    def pipe_connection_lost(self, fd: int, exc: Exception | None) -> None:
        if rest := self._partial.pop(fd, b""):
            self._line(fd, rest)

    def process_exited(self) -> None:
        assert self._transport is not None
        self.returncode = self._transport.get_returncode()
        asyncio.get_running_loop().call_later(0.5, self._finish)

    def connection_lost(self, exc: Exception | None) -> None:
        self._finish()

    def _finish(self) -> None:
        if not self.closed.is_set():
            self.closed.set()
            if self._transport is not None:
                self._transport.close()
            for callback in self._callbacks:
                callback()

    def _line(self, fd: int, raw: bytes) -> None:
        text = raw[:_MAX_LINE_BYTES].decode("utf-8", "replace").rstrip()
        if not text:
            return
        self.last_lines.append(text)
        if self._on_log is not None:
            self._on_log(EngineLogLine("stdout" if fd == 1 else "stderr", text))
