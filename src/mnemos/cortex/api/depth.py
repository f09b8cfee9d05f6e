"""How deep JSON may be nested: what is deeper cannot be walked safely by those who read it."""

from __future__ import annotations

from typing import Any

MAX_DEPTH = 64


def check_depth(value: Any) -> None:
    """Raise ValueError, with the rest of a sentence, if `value` is nested too deep."""
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [child for node in level for child in _children(node)]
        if not level:
            return
    raise ValueError(f"is nested more than {MAX_DEPTH} levels deep")


def _children(node: Any) -> list[Any]:
    if isinstance(node, dict):
        return list(node.values())
    return node if isinstance(node, list) else []
