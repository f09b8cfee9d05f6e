"""What a JSON Schema must be where the platform takes one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from jsonschema import Draft202012Validator, SchemaError


def check_json_schema(value: dict[str, Any]) -> dict[str, Any]:
    """Return `value` if it is a JSON Schema (2020-12) that refers to nothing outside itself.

    Raises ValueError with the rest of a sentence about it.
    """
    try:
        Draft202012Validator.check_schema(value)
    except SchemaError as error:
        place = "/".join(str(part) for part in error.absolute_path)
        where = f" at {place}" if place else ""
        raise ValueError(f"is not a valid JSON Schema{where}: {error.message[:200]}") from error
    for reference in _references(value):
        if not reference.startswith("#"):
            raise ValueError(f"refers to {reference[:100]!r}; only references to '#…' are allowed")
    return value


def _references(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        for name in ("$ref", "$dynamicRef"):
            if isinstance(node.get(name), str):
                yield node[name]
    children = node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
    for child in children:
        yield from _references(child)
