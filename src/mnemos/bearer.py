"""Secrets that callers send in a header, as every service of the platform reads them."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable

SHORTEST_SECRET = 16
"""Secrets that operators think of themselves have at least so many characters."""


def hash_of(secret: str) -> str:
    """SHA-256 in hexadecimal: a secret that is random needs neither salt nor a slow hash."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


def same(one: str, other: str) -> bool:
    """Compare two hashes in a time that tells nothing about where they differ."""
    return hmac.compare_digest(one, other)


def bearer_of(value: str) -> str | None:
    """The secret in `Bearer <secret>`; None for whatever else it is."""
    scheme, _, secret = value.partition(" ")
    secret = secret.strip()
    return secret if scheme.lower() == "bearer" and secret else None


def secret_in(headers: Iterable[tuple[bytes, bytes]]) -> str | None:
    """The secret that an ASGI request brings: `Authorization: Bearer …`, else `x-api-key`."""
    given = None
    for name, value in headers:
        if name == b"authorization":
            secret = bearer_of(value.decode("latin-1"))
            if secret is not None:
                return secret
        elif name == b"x-api-key":
            given = value.decode("latin-1").strip() or None
    return given
