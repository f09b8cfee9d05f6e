"""ETags: what an answer holds, as a short name, and what callers make of one."""

from __future__ import annotations

import hashlib
import re

from .errors import ModelChangedError

_ETAG = re.compile(r'(W/)?"([^"]*)"')
_DIGITS = 32


def digest_of(*texts: str) -> str:
    """What an ETag holds: other texts have another one."""
    joined = "\0".join(texts).encode("utf-8", "replace")
    return hashlib.sha256(joined).hexdigest()[:_DIGITS]


def quoted(digest: str) -> str:
    """Write a digest as the header has it."""
    return f'"{digest}"'


def is_known(if_none_match: str | None, digest: str) -> bool:
    """Whether a caller who sends `If-None-Match` has this answer already."""
    if if_none_match is None:
        return False
    return if_none_match.strip() == "*" or any(
        found == digest for _, found in _ETAG.findall(if_none_match)
    )


def check_unchanged(if_match: str | None, digest: str, what: str) -> None:
    """Raise ModelChangedError if `If-Match` is given and does not name `digest`."""
    if if_match is None or if_match.strip() == "*":
        return
    if not any(found == digest and not weak for weak, found in _ETAG.findall(if_match)):
        raise ModelChangedError(
            f"{what} has another ETag than If-Match says, {quoted(digest)}: read it again, "
            "and then decide."
        )
