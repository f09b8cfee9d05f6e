"""Checks that several fields share; each raises ValueError with the rest of a sentence."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from mnemos.json_schema import check_json_schema

from ..engram.errors import InvalidKeyError

MAX_JSON_BYTES = 64 * 1024
MAX_JSON_DEPTH = 32


def allowed_key(check: Callable[[str], str]) -> Callable[[str], str]:
    """Make one of ENGRAM's checks a validator."""

    def validate(value: str) -> str:
        try:
            return check(value)
        except InvalidKeyError as error:
            # The sentence starts with what it is about, and so does pydantic's: once is enough.
            raise ValueError(error.message.split(" ", 1)[1].rstrip(".")) from error

    return validate


def bounded_json(value: Any) -> Any:
    """Return `value` if it can be stored and sent as JSON of a sane depth and size."""
    if _too_deep(value):
        raise ValueError(f"is nested more than {MAX_JSON_DEPTH} levels deep")
    try:
        size = len(json.dumps(value, ensure_ascii=False, allow_nan=False).encode())
    except UnicodeEncodeError as error:
        raise ValueError("holds text that is not valid Unicode") from error
    except (TypeError, ValueError) as error:
        raise ValueError("holds a value that JSON does not have (NaN or infinity)") from error
    if size > MAX_JSON_BYTES:
        raise ValueError(f"is larger than {MAX_JSON_BYTES // 1024} KiB")
    return value


def json_schema(value: dict[str, Any] | None) -> dict[str, Any] | None:
    """Return `value` if it is a JSON Schema (2020-12) that refers to nothing outside itself."""
    if value is None:
        return None
    return check_json_schema(bounded_json(value))


def _too_deep(value: Any) -> bool:
    level = [value]
    for _ in range(MAX_JSON_DEPTH):
        level = [child for node in level for child in _children(node)]
        if not level:
            return False
    return True


def _children(node: Any) -> list[Any]:
    if isinstance(node, dict):
        return list(node.values())
    return node if isinstance(node, list) else []
