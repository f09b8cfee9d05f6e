"""The certificates that CORTEX's ports show, and whose it wants to see."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path

from mnemos.http import Certificate

from .errors import StartError
from .settings import CortexSettings


@dataclass(frozen=True, slots=True)
class Tls:
    """What both ports need; `client_ca` is PEM."""

    certificate: Certificate
    client_ca: bytes | None


def tls_of(settings: CortexSettings) -> Tls | None:
    """Read what the settings name; None where nothing is. Raises StartError."""
    chain, key = settings.tls_cert, settings.tls_key
    if chain is None or key is None:
        if chain or key or settings.tls_client_ca:
            raise StartError(
                "CORTEX_TLS_CERT and CORTEX_TLS_KEY go together, "
                "and CORTEX_TLS_CLIENT_CA goes with both."
            )
        return None
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(chain, key)
    except (OSError, ssl.SSLError) as error:
        raise StartError(
            f"CORTEX_TLS_CERT and CORTEX_TLS_KEY cannot be used ({_reason(error)})."
        ) from error
    client_ca = settings.tls_client_ca
    return Tls(Certificate(chain, key), None if client_ca is None else _authority(client_ca))


def _authority(path: Path) -> bytes:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_verify_locations(path)
        return path.read_bytes()
    except (OSError, ssl.SSLError) as error:
        raise StartError(f"CORTEX_TLS_CLIENT_CA cannot be used ({_reason(error)}).") from error


def _reason(error: OSError) -> str:
    return error.strerror or str(error)
