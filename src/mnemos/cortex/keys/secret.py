"""What a key's holder sends, and the only thing of it that is kept."""

from __future__ import annotations

import hashlib
import hmac
import secrets

PREFIX = "mk-"
SECRET_BYTES = 32
SHORTEST_TOKEN = 16
"""Tokens that operators think of themselves have at least so many characters."""


def new_secret() -> str:
    """A secret of 256 random bits, in characters that need no quoting."""
    return PREFIX + secrets.token_urlsafe(SECRET_BYTES)


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
