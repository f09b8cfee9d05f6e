"""Serving the API inside the worker's own event loop."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from typing import ClassVar

import structlog
import uvicorn
from fastapi import FastAPI

from ..errors import ConfigurationError

logger = structlog.get_logger(__name__)

_STOP_SECONDS = 2


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals are the worker's, not the server's."""
        yield


class ApiServer:
    """One app on one address. bind() fails at once where the address is taken."""

    name: ClassVar[str] = "api_server"

    def __init__(self, app: FastAPI, host: str, port: int) -> None:
        self._host = host
        self._port = port
        self._socket: socket.socket | None = None
        self._task: asyncio.Task[None] | None = None
        config = uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            lifespan="off",
            ws="none",
            timeout_graceful_shutdown=_STOP_SECONDS,
        )
        self._server = _Server(config)

    @property
    def port(self) -> int:
        """The port that is served; after bind() with port 0, the one that was free."""
        return self._socket.getsockname()[1] if self._socket else self._port

    def bind(self) -> None:
        """Take the address.

        Raises:
            ConfigurationError: it is taken, or is none of this machine's.
        """
        family = socket.AF_INET6 if ":" in self._host else socket.AF_INET
        # Named, since asyncio turns Nagle's algorithm off only where a socket says TCP.
        listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((self._host, self._port))
        except OSError as error:
            listener.close()
            raise ConfigurationError(
                f"the worker's API cannot listen on {self._host}:{self._port}"
                f" ({error.strerror}); choose another NEURON_API_PORT or NEURON_API_HOST"
            ) from error
        self._socket = listener

    async def start(self, tasks: asyncio.TaskGroup) -> None:
        """Serve in `tasks`."""
        if self._socket is None:
            self.bind()
        assert self._socket is not None
        self._task = tasks.create_task(self._server.serve([self._socket]), name=self.name)
        logger.info("api_server_started", host=self._host, port=self.port)

    async def stop(self) -> None:
        """Finish open requests, two seconds at most. May be called twice, or without start()."""
        task, self._task = self._task, None
        if task is not None:
            self._server.should_exit = True
            await asyncio.wait({task}, timeout=2 * _STOP_SECONDS)
            task.cancel()
        if self._socket is not None:
            self._socket.close()
