"""Which names may stand in a path: nothing here can ever leave its folder or bucket."""

from __future__ import annotations

import re

from .errors import InvalidKeyError

MAX_KEY_BYTES = 1024
MAX_SEGMENT_BYTES = 255
NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$"
LATEST = "latest"

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_UNFINISHED = re.compile(r"#[0-9]+$")


def check_name(value: str, what: str) -> str:
    """Return `value` if it can name a model's family or version, or raise InvalidKeyError."""
    if not _NAME.fullmatch(value) or ".." in value:
        raise InvalidKeyError(
            f"{what} {_shown(value)} is not allowed: use 1 to 128 letters, digits, dots, dashes "
            "and underscores, a letter or digit first, and no '..'."
        )
    return value


def check_version(value: str) -> str:
    """As check_name; `latest` is not a version but a way to ask for the newest one."""
    check_name(value, "version")
    if value == LATEST:
        raise InvalidKeyError("version 'latest' is reserved: it asks for the newest version.")
    return value


def check_bucket(bucket: str) -> str:
    """Return `bucket` if every S3 storage takes it as a name, or raise InvalidKeyError."""
    if not _BUCKET.fullmatch(bucket) or ".." in bucket:
        raise InvalidKeyError(
            f"bucket {_shown(bucket)} is not allowed: use 3 to 63 small letters, digits, dots "
            "and dashes."
        )
    return bucket


def check_key(key: str) -> str:
    """Return `key` if it is a relative POSIX path that stays inside its bucket.

    Raises InvalidKeyError, whose sentence says what is wrong with it.
    """
    problem = _problem_with(key)
    if problem is not None:
        raise InvalidKeyError(f"path {_shown(key)} is not allowed: {problem}.")
    return key


def check_prefix(prefix: str) -> str:
    """As check_key, but empty means the whole bucket and a closing slash is taken off."""
    stripped = prefix.removesuffix("/")
    return check_key(stripped) if stripped else ""


def _problem_with(key: str) -> str | None:
    if not key:
        return "it is empty"
    if not key.isprintable():
        return "it holds a control character"
    if len(key.encode("utf-8", "replace")) > MAX_KEY_BYTES:
        return f"it is longer than {MAX_KEY_BYTES} bytes"
    if "\\" in key:
        return "it holds a backslash"
    if key.startswith("/"):
        return "it is absolute"
    return _problem_with_segments(key.split("/"))


def _problem_with_segments(segments: list[str]) -> str | None:
    for segment in segments:
        if segment in {"", ".", ".."}:
            return f"it has the part {segment!r}"
        if len(segment.encode("utf-8")) > MAX_SEGMENT_BYTES:
            return f"one of its parts is longer than {MAX_SEGMENT_BYTES} bytes"
        if _UNFINISHED.search(segment):
            return "a name that ends in '#' and a number stands for an unfinished file"
    return None


def _shown(value: str) -> str:
    return repr(value if len(value) <= 80 else value[:77] + "...")
