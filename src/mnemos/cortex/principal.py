"""Who asks: the API key behind a request, and what it may do."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from .frozen import frozen

SUBMIT, READ, ADMIN, WORKER = "submit", "read", "admin", "worker"
SCOPES = (SUBMIT, READ, ADMIN, WORKER)

_OWNED_NAME = re.compile(r"key_[0-9a-z]+:")


@frozen()
class Principal:
    """One API key, as far as requests are concerned; `key_id` is what jobs are kept under."""

    key_id: str
    name: str
    scopes: frozenset[str]

    def may(self, scope: str) -> bool:
        """Say whether the key has a scope; ADMIN holds all."""
        return scope in self.scopes or ADMIN in self.scopes

    def sees(self, key_id: str) -> bool:
        """Say whether what was submitted with a key is this one's to see and to cancel."""
        return key_id == self.key_id or ADMIN in self.scopes

    def own_name(self, name: str) -> str:
        """A name that its submitter chose, as it is stored: two keys' same names are two.

        Who may see everything may also give the whole name of another's.
        """
        if not self.key_id or (ADMIN in self.scopes and _OWNED_NAME.match(name)):
            return name
        return f"{self.key_id}:{name}"


ANYONE = Principal("", "", frozenset(SCOPES))
"""Everybody, where CORTEX asks for no keys."""


def principal_of(scope: Mapping[str, Any]) -> Principal:
    """Who sent the request of this ASGI scope."""
    found: Principal = scope.get("state", {}).get("principal", ANYONE)
    return found


def shown_name(name: str | None, key_id: str) -> str | None:
    """A stored name as its submitter chose it."""
    return name.removeprefix(f"{key_id}:") if name and key_id else name
