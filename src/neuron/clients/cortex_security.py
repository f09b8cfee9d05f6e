"""How the worker shows CORTEX who it is, and sees that CORTEX is CORTEX."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import grpc.aio

from ..config import Settings
from ..errors import ConfigurationError


@dataclass(frozen=True, slots=True)
class CortexSecurity:
    """What goes with the address of CORTEX; nothing of it is needed on loopback.

    The authority's certificate (`ca`) is what CORTEX's own is checked with, the system's where
    there is none; `cert` and `key` are what the worker shows. All three are PEM.
    """

    token: str | None = None
    tls: bool = False
    ca: bytes | None = None
    cert: bytes | None = None
    key: bytes | None = None

    @classmethod
    def of(cls, settings: Settings) -> CortexSecurity:
        """Read what the settings name. Raises ConfigurationError."""
        if (settings.cortex_cert is None) != (settings.cortex_key is None):
            raise ConfigurationError("NEURON_CORTEX_CERT and NEURON_CORTEX_KEY go together.")
        token = settings.cortex_token
        return cls(
            token=token.get_secret_value() if token is not None else None,
            tls=settings.cortex_tls or bool(settings.cortex_ca or settings.cortex_cert),
            ca=_read(settings.cortex_ca, "NEURON_CORTEX_CA"),
            cert=_read(settings.cortex_cert, "NEURON_CORTEX_CERT"),
            key=_read(settings.cortex_key, "NEURON_CORTEX_KEY"),
        )

    def __repr__(self) -> str:
        return f"CortexSecurity(token={self.token is not None}, tls={self.tls})"

    def open(self, url: str, options: Sequence[tuple[str, int]]) -> grpc.aio.Channel:
        """Open the channel; it connects by itself, now and after every break."""
        if not self.tls:
            return grpc.aio.insecure_channel(url, options=options)
        credentials = grpc.ssl_channel_credentials(self.ca, self.key, self.cert)
        return grpc.aio.secure_channel(url, credentials, options=options)

    def for_stub(self, channel: grpc.aio.Channel) -> Any:
        """What a stub is made with, so that each of its calls brings the token."""
        return channel if self.token is None else _ChannelWithToken(channel, self.token)


UNPROTECTED = CortexSecurity()


class _ChannelWithToken:
    """A channel whose calls bring a token; an interceptor would put itself into every stream."""

    def __init__(self, channel: grpc.aio.Channel, token: str) -> None:
        self._channel = channel
        self._metadata = (("authorization", f"Bearer {token}"),)

    def __getattr__(self, kind: str) -> Callable[..., Any]:
        """`unary_unary` and its like, as the generated stub asks for them."""
        make = getattr(self._channel, kind)
        return lambda *given, **named: partial(make(*given, **named), metadata=self._metadata)


def _read(path: Path | None, setting: str) -> bytes | None:
    if path is None:
        return None
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigurationError(f"{setting}: {path} cannot be read ({error.strerror}).") from error
