"""Serving the contract on a port."""

from __future__ import annotations

import grpc
import grpc.aio
import structlog

from mnemos.http import PortUnavailableError
from mnemos.protocol.v1.cortex_pb2_grpc import add_CortexServiceServicer_to_server

from ..tls import Tls
from .service import CortexService
from .tokens import WorkerTokens

MAX_MESSAGE_BYTES = 4 * 1024 * 1024
MIN_PING_INTERVAL_MS = 10_000
KEEPALIVE_MS = 5_000
"""A connection on which nothing comes is tried after so long, and given up after as long again."""

_OPTIONS = (
    ("grpc.so_reuseport", 0),  # a busy port is an error, not a second listener
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", -1),
    ("grpc.keepalive_time_ms", KEEPALIVE_MS),
    ("grpc.keepalive_timeout_ms", KEEPALIVE_MS),
    ("grpc.http2.ping_timeout_ms", KEEPALIVE_MS),  # else a minute, where it sent one by itself
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.http2.max_ping_strikes", 0),
    ("grpc.http2.min_ping_interval_without_data_ms", MIN_PING_INTERVAL_MS),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", MIN_PING_INTERVAL_MS),
)
_log = structlog.get_logger(__name__)


class GrpcServer:
    """One CortexService on one port, inside the caller's event loop."""

    def __init__(
        self,
        service: CortexService,
        host: str,
        port: int,
        *,
        setting: str,
        tokens: WorkerTokens | None = None,
        tls: Tls | None = None,
    ) -> None:
        self._credentials = _credentials(tls)
        self._host = host
        self._wanted_port = port
        self._setting = setting
        interceptors = None if tokens is None else [tokens]
        self._server = grpc.aio.server(interceptors=interceptors, options=_OPTIONS)
        add_CortexServiceServicer_to_server(service, self._server)
        self.port = 0

    def bind(self) -> int:
        """Take the port and return it. Raises PortUnavailableError, in one sentence."""
        host = f"[{self._host}]" if ":" in self._host else self._host
        try:
            self.port = self._add_port(f"{host}:{self._wanted_port}")
        except RuntimeError as error:
            raise PortUnavailableError(
                f"Cannot listen on {self._host}:{self._wanted_port} (it is in use or not ours); "
                f"set {self._setting} to another port."
            ) from error
        return self.port

    def _add_port(self, address: str) -> int:
        if self._credentials is None:
            return self._server.add_insecure_port(address)
        return self._server.add_secure_port(address, self._credentials)

    async def start(self) -> None:
        """Answer calls on the port that was taken."""
        await self._server.start()

    async def stop(self, grace_seconds: float) -> None:
        """Refuse new calls, give those that run the grace, then end them. Idempotent."""
        await self._server.stop(grace_seconds)


def _credentials(tls: Tls | None) -> grpc.ServerCredentials | None:
    if tls is None:
        return None
    certificate = tls.certificate
    return grpc.ssl_server_credentials(
        [(certificate.key.read_bytes(), certificate.chain.read_bytes())],
        root_certificates=tls.client_ca,
        require_client_auth=tls.client_ca is not None,
    )
