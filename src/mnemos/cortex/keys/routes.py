"""Which scope a request takes."""

from __future__ import annotations

import re

from ..principal import ADMIN, READ, SUBMIT

OPEN = frozenset({"/health", "/ready", "/metrics", "/openapi.json", "/v1/openapi.json"})
"""What probes, scrapers and readers of the documentation ask for: no key is needed."""

_KEYS = re.compile(r"/api/v1/keys(/.*)?")
_WORK = re.compile(
    r"/v1/.*|/api/v1/(jobs(/batch|/[^/]+|/[^/]+/(cancel|retry))?|groups/[^/]+/cancel)"
)
_EVERYBODYS = re.compile(r"/api/v1/jobs/redrive")


def scope_of(method: str, path: str) -> str:
    """The scope that a request needs; what is not known to be less needs `admin`."""
    if _KEYS.fullmatch(path):
        return ADMIN
    if method in ("GET", "HEAD", "OPTIONS"):
        return READ
    if _WORK.fullmatch(path) and not _EVERYBODYS.fullmatch(path):
        return SUBMIT
    return ADMIN
