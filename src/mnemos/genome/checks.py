"""Checks that several fields share; each raises ValueError with the rest of a sentence."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, TypeVar

from pydantic import ValidationInfo
from pydantic_core import PydanticCustomError

from mnemos.json_schema import check_json_schema

from ..engram.errors import InvalidKeyError
from ..engram.keys import check_key
from ..engram.names import check_file_name

T = TypeVar("T")
R = TypeVar("R")

MAX_JSON_BYTES = 64 * 1024
MAX_SIGNATURE_BYTES = 4 * 1024 * 1024
MAX_JSON_DEPTH = 32


GIVEN_OUT = "given out"
"""The context of validating what GENOME answered: it may have been registered under an earlier,
wider rule, and must be readable all the same. What keeps paths inside their folder still holds.
"""


def problem_in(field: str, reason: str) -> PydanticCustomError:
    """An error about a field inside of what is checked as a whole; to be raised."""
    return PydanticCustomError("field", "{reason}", {"field": field, "reason": reason})


def plain_text(value: str) -> str:
    """Return `value` if every database can keep it."""
    if "\0" in value:
        raise ValueError("holds the character NUL")
    return value


def file_path(value: str, info: ValidationInfo) -> str:
    """Return `value` if it may be the path of a model's file."""
    is_plain = value.isascii() or info.context == GIVEN_OUT
    return allowed_key(check_key if is_plain else check_file_name)(value)


def allowed_key(check: Callable[[T], R]) -> Callable[[T], R]:
    """Make one of ENGRAM's checks a validator."""

    def validate(value: T) -> R:
        try:
            return check(value)
        except InvalidKeyError as error:
            # The sentence starts with what it is about, and so does pydantic's: once is enough.
            raise ValueError(error.message.split(" ", 1)[1].rstrip(".")) from error

    return validate


def bounded_json(value: Any, max_bytes: int = MAX_JSON_BYTES) -> Any:
    """Return `value` if it can be stored and sent as JSON of a sane depth and size."""
    if _too_deep(value):
        raise ValueError(f"is nested more than {MAX_JSON_DEPTH} levels deep")
    try:
        size = len(json.dumps(value, ensure_ascii=False, allow_nan=False).encode())
    except UnicodeEncodeError as error:
        raise ValueError("holds text that is not valid Unicode") from error
    except (TypeError, ValueError) as error:
        raise ValueError("holds a value that JSON does not have (NaN or infinity)") from error
    if size > max_bytes:
        raise ValueError(f"is larger than {max_bytes // 1024} KiB")
    return value


def signature(value: dict[str, Any] | None) -> dict[str, Any] | None:
    """Return `value` if it can be a signature: it names every file of a model once more."""
    if value is not None:
        bounded_json(value, MAX_SIGNATURE_BYTES)
    return value


def json_schema(value: dict[str, Any] | None, info: ValidationInfo) -> dict[str, Any] | None:
    """Return `value` if it is a JSON Schema (2020-12) that refers to nothing outside itself."""
    if value is None or info.context == GIVEN_OUT:
        return value
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
