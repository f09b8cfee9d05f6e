"""What a JSON Schema must be where the platform takes one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from jsonschema import Draft202012Validator, SchemaError
from referencing import Registry
from referencing.exceptions import Unresolvable
from referencing.jsonschema import DRAFT202012


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
    references = list(_references(value))
    for reference in references:
        if not reference.startswith("#"):
            raise ValueError(f"refers to {reference[:100]!r}; only references to '#…' are allowed")
    _check_defined(value, references)
    return value


def _check_defined(schema: dict[str, Any], references: Iterable[str]) -> None:
    """Raise ValueError for a reference to nothing, where references are the whole schema's."""
    if any(_names_itself(child) for child in schema.values()):
        return
    resource = DRAFT202012.create_resource(schema)
    resolver = Registry().with_resource("", resource).crawl().resolver()
    for reference in references:
        try:
            resolver.lookup(reference)
        except (Unresolvable, ValueError, TypeError, LookupError) as error:
            message = f"refers to {reference[:100]!r}, which it does not define"
            raise ValueError(message) from error


def _names_itself(node: Any) -> bool:
    """Whether some part of a schema is one of its own, to which its references are relative."""
    if isinstance(node, dict):
        return isinstance(node.get("$id"), str) or any(map(_names_itself, node.values()))
    return isinstance(node, list) and any(map(_names_itself, node))


def _references(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        for name in ("$ref", "$dynamicRef"):
            if isinstance(node.get(name), str):
                yield node[name]
    children = node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
    for child in children:
        yield from _references(child)
