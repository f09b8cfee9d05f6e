"""GENOME as one object: its store and its HTTP server, started and stopped together."""

from __future__ import annotations

import asyncio
import ipaddress
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Self

import structlog

from ..http import HttpServer
from .app import create_app
from .errors import GenomeUnavailableError
from .opening import open_store
from .settings import GenomeSettings

_log = structlog.get_logger(__name__)


class GenomeServer:
    """An async context manager: inside it, GENOME answers at `url`.

    Entering raises GenomeUnavailableError (data) or PortUnavailableError (port). Leaving lets
    open requests finish for a few seconds, then closes all. Should serving fail in between, the
    task inside is cancelled and an ExceptionGroup with the failure comes out.
    """

    def __init__(self, settings: GenomeSettings) -> None:
        self._settings = settings
        self._stack: AsyncExitStack | None = None
        self._port: int | None = None

    @property
    def port(self) -> int:
        """The port that is served; known once entered."""
        if self._port is None:
            raise RuntimeError("enter GenomeServer first")
        return self._port

    @property
    def url(self) -> str:
        """Where GENOME answers, for clients on this machine; known once entered."""
        host = self._settings.http_host
        shown = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - not bound here
        return f"http://[{shown}]:{self.port}" if ":" in shown else f"http://{shown}:{self.port}"

    async def __aenter__(self) -> Self:
        """Open the store, take the port, and return when requests are answered."""
        token = self._token()
        async with AsyncExitStack() as stack:
            store = await stack.enter_async_context(open_store(self._settings))
            http = HttpServer(
                create_app(store, token=token, guard_reads=self._is_exposed),
                self._settings.http_host,
                self._settings.http_port,
                setting="GENOME_HTTP_PORT",
            )
            stack.callback(http.close)
            self._port = http.bind()
            group = await stack.enter_async_context(asyncio.TaskGroup())
            stack.callback(http.stop)
            group.create_task(http.serve(), name="genome.http")
            await http.wait_ready()
            self._stack = stack.pop_all()
        self._log_started()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop serving, then close the store."""
        stack, self._stack = self._stack, None
        if stack is None:
            return
        if kind is not None and issubclass(kind, asyncio.CancelledError):
            # Only the group knows whether it cancelled its owner itself.
            await stack.__aexit__(kind, error, trace)
        else:
            # The group would wrap what failed inside; it comes out as it was raised.
            await stack.__aexit__(None, None, None)
        _log.info("genome.stopped")

    @property
    def _is_exposed(self) -> bool:
        """Whether other machines may reach the port."""
        return not _is_loopback(self._settings.http_host)

    def _token(self) -> str | None:
        """Raises GenomeUnavailableError where others could come in without one."""
        settings = self._settings
        if settings.token is not None:
            return settings.token.get_secret_value()
        if self._is_exposed and settings.auth != "off":
            raise GenomeUnavailableError(
                f"GENOME_HTTP_HOST={settings.http_host} lets other machines in, which takes a "
                "token: set GENOME_TOKEN, or say GENOME_AUTH=off."
            )
        return None

    def _log_started(self) -> None:
        kept = {"database": "sqlite", "data_dir": str(self._settings.data_dir)}
        if self._settings.database_url is not None:
            kept = {"database": "postgresql"}
        _log.info("genome.started", url=self.url, **kept)
        if self._is_exposed and self._settings.token is None:
            _log.warning("genome.token_off", host=self._settings.http_host)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
