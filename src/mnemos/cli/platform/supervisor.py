"""`mnemos up`: everything started in order, watched, and ended in the reverse order."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from ..errors import CliError, Conflict, UsageFault
from ..http import first_error
from .options import Addresses, UpOptions
from .tokens import PlatformTokens
from .worker_process import WorkerProcess

if TYPE_CHECKING:
    from pydantic import ValidationError

    from mnemos.cortex.server import CortexServer
    from mnemos.genome.server import GenomeServer


class Supervisor:
    """Runs a platform until `stop()`; a second `stop()` means now.

    Ends by draining the workers while CORTEX still takes their results, then the servers.
    Raises CliError when something cannot be started; nothing of it is left running then.
    """

    def __init__(
        self,
        options: UpOptions,
        *,
        say: Callable[[str], None],
        on_ready: Callable[[Addresses], None],
    ) -> None:
        self._options = options
        self._say = say
        self._on_ready = on_ready
        self._stop_asked = asyncio.Event()
        self._workers: list[WorkerProcess] = []

    async def run(self) -> None:
        """Start, serve until told to stop, and end."""
        self._options.data_dir.mkdir(parents=True, exist_ok=True)
        with claimed(self._options), self._signals():
            try:
                await self._run_servers()
            except BaseExceptionGroup as group:
                raise as_start_error(first_error(group), self._options) from group
            except Exception as error:
                raise as_start_error(error, self._options) from error

    def stop(self) -> None:
        """Begin to end; called again, end at once."""
        if not self._stop_asked.is_set():
            self._say("Stopping: the workers finish their jobs first (Ctrl-C again: now).")
        self._stop_asked.set()
        for worker in self._workers:
            worker.stop()

    async def _run_servers(self) -> None:
        tokens = PlatformTokens.of(self._options)
        check_worker_ports(self._options)
        async with AsyncExitStack() as servers:
            genome = await servers.enter_async_context(genome_server(self._options))
            cortex = await servers.enter_async_context(
                cortex_server(self._options, genome.port, tokens)
            )
            where = addresses(self._options, cortex, genome)
            write_state(self._options, where)
            servers.callback(self._options.state_file.unlink, missing_ok=True)
            self._on_ready(where)
            await self._run_workers(where, tokens)

    async def _run_workers(self, where: Addresses, tokens: PlatformTokens) -> None:
        self._workers = [
            WorkerProcess(index, self._options, where, self._say, tokens.for_workers)
            for index in range(self._options.workers)
        ]
        async with asyncio.TaskGroup() as tasks:
            for worker in self._workers:
                tasks.create_task(worker.run(), name=worker.name)
            await self._stop_asked.wait()
            for worker in self._workers:
                worker.stop()

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop)
        try:
            yield
        finally:
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(number)


def genome_server(options: UpOptions) -> GenomeServer:
    """GENOME with this platform's settings."""
    from mnemos.genome.server import GenomeServer
    from mnemos.genome.settings import GenomeSettings

    return GenomeServer(
        GenomeSettings(
            data_dir=options.data_dir / "genome",
            http_host=options.host,
            http_port=options.genome_port,
        )
    )


def cortex_server(options: UpOptions, genome_port: int, tokens: PlatformTokens) -> CortexServer:
    """CORTEX with this platform's settings."""
    from mnemos.cortex.server import CortexServer
    from mnemos.cortex.settings import CortexSettings

    return CortexServer(
        CortexSettings(
            data_dir=options.data_dir / "cortex",
            http_host=options.host,
            http_port=options.http_port,
            grpc_host=options.host,
            grpc_port=options.grpc_port,
            genome_url=f"http://{reachable(options.host)}:{genome_port}",
            **options.engram.cortex_settings,
            **tokens.for_cortex,
        )
    )


def check_worker_ports(options: UpOptions) -> None:
    """Raise PortUnavailableError for a port that a worker could not have.

    The workers would find it out themselves, but only in their logs.
    """
    from mnemos.http import bind_socket

    if options.worker_port:
        for index in range(options.workers):
            bind_socket(options.host, options.worker_port + index, "--worker-port").close()


def addresses(options: UpOptions, cortex: CortexServer, genome: GenomeServer) -> Addresses:
    """Where clients on this machine find the servers."""
    host = reachable(options.host)
    return Addresses(
        cortex_url=f"{urlsplit(cortex.http_url).scheme}://{host}:{cortex.http_port}",
        cortex_grpc=f"{host}:{cortex.grpc_port}",
        genome_url=f"http://{host}:{genome.port}",
        engram_url=options.engram.url,
    )


def reachable(host: str) -> str:
    """The address by which this machine reaches a server that listens on `host`."""
    shown = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - nothing is bound
    return f"[{shown}]" if ":" in shown else shown


def write_state(options: UpOptions, where: Addresses) -> None:
    """Tell other processes of this machine where the platform answers."""
    staging = options.state_file.with_suffix(".new")
    staging.write_text(json.dumps({"pid": os.getpid(), **vars(where)}, indent=2) + "\n")
    staging.replace(options.state_file)


@contextlib.contextmanager
def claimed(options: UpOptions) -> Iterator[None]:
    """Hold the data directory: two platforms on one would corrupt each other's promises."""
    with (options.data_dir / "up.lock").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            lock.seek(0)
            owner = lock.read().strip()
            raise Conflict(
                f"Another mnemos up (process {owner or '?'}) already uses {options.data_dir}.",
                code="in_use",
                hint="stop it, or give this one another --data-dir and other ports",
            ) from error
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield


_FLAGS = {
    "CORTEX_HTTP_PORT": "--http-port",
    "CORTEX_GRPC_PORT": "--grpc-port",
    "GENOME_HTTP_PORT": "--genome-port",
}


def as_start_error(error: BaseException, options: UpOptions) -> BaseException:
    """A server's own error in the words of the flags that were typed."""
    from pydantic import ValidationError

    from mnemos.http import PortUnavailableError

    if isinstance(error, ValidationError):
        return as_setting_fault(error)
    if isinstance(error, PortUnavailableError):
        message = str(error)
        for setting, flag in _FLAGS.items():
            message = message.replace(setting, flag)
        return CliError(message, code="port_in_use", hint="is another mnemos up running?")
    if isinstance(error, OSError):
        return CliError(
            f"Cannot use {options.data_dir}: {error.strerror or error}.", code="os_error"
        )
    if isinstance(error, CliError) or not hasattr(error, "message"):
        return error
    return CliError(str(error.message), code=str(getattr(error, "code", "failed")))


def as_setting_fault(error: ValidationError) -> UsageFault:
    """A wrong variable of GENOME's or CORTEX's, without its value: that may hold a password."""
    first = error.errors(include_input=False, include_url=False)[0]
    service = error.title.removesuffix("Settings").upper()
    name = f"{service}_{str(first['loc'][0]).upper()}"
    return UsageFault(f"{name}: {first['msg'].removeprefix('Value error, ')}.", field=name)
