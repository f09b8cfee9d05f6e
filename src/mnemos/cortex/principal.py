"""Who asks: the API key behind a request, and what it may do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .frozen import frozen

SUBMIT, READ, ADMIN = "submit", "read", "admin"
SCOPES = (SUBMIT, READ, ADMIN)


@frozen()
class Principal:
    """One API key, as far as requests are concerned; `key_id` is what jobs are kept under."""

    key_id: str
    name: str
    scopes: frozenset[str]

    def may(self, scope: str) -> bool:
        """Say whether the key has a scope; ADMIN holds all."""
        return scope in self.scopes or ADMIN in self.scopes


ANYONE = Principal("", "", frozenset(SCOPES))
"""Everybody, where CORTEX asks for no keys."""


def principal_of(scope: Mapping[str, Any]) -> Principal:
    """Who sent the request of this ASGI scope."""
    found: Principal = scope.get("state", {}).get("principal", ANYONE)
    return found
