"""What a key's holder sends; only a hash of it is kept."""

from __future__ import annotations

import secrets

PREFIX = "mk-"
SECRET_BYTES = 32


def new_secret() -> str:
    """A secret of 256 random bits, in characters that need no quoting."""
    return PREFIX + secrets.token_urlsafe(SECRET_BYTES)
