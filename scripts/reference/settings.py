"""Settings: names, defaults, bounds, and what the source says of each."""

from __future__ import annotations

import ast
import inspect
import re
from types import UnionType
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import SecretStr
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined
from pydantic_settings import BaseSettings

from mnemos.cortex.settings import CortexSettings
from mnemos.genome.settings import GenomeSettings
from neuron.config import Settings as NeuronSettings

from .markdown import code, head, table

_TEXT = """
Variables of the environment. A NEURON worker also reads them from `.env` in its working directory,
and refuses a `NEURON_` name that it does not know; CORTEX and GENOME warn of theirs. Where a
setting has no default it is off, or found out when the process starts.
"""
_BOUNDS = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}
_SPOKEN: dict[type, str] = {
    bool: "true or false",
    int: "whole number",
    float: "number",
    str: "text",
    SecretStr: "secret",
}


def page() -> str:
    """Return the page."""
    parts = [head("Settings", _TEXT.strip())]
    for title, settings in (
        ("NEURON", NeuronSettings),
        ("CORTEX", CortexSettings),
        ("GENOME", GenomeSettings),
    ):
        parts.append(f"\n## {title}\n\n")
        parts.append(table(("variable", "value", "default", ""), _rows(settings)))
    return "".join(parts)


def _rows(settings: type[BaseSettings]) -> list[tuple[str, str, str, str]]:
    said = _comments(settings)
    prefix = settings.model_config.get("env_prefix", "")
    return [
        (code(f"{prefix}{name.upper()}"), _value(field), _default(field), said.get(name, ""))
        for name, field in settings.model_fields.items()
    ]


def _comments(settings: type[BaseSettings]) -> dict[str, str]:
    """What stands below a field as a string, or beside it as a comment."""
    source = inspect.getsource(settings)
    lines = source.splitlines()
    body = ast.parse(source).body[0]
    assert isinstance(body, ast.ClassDef)
    said: dict[str, str] = {}
    last = ""
    for node in body.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            last = node.target.id
            remark = re.search(r"  # (?!noqa)(.*)$", lines[(node.end_lineno or 1) - 1])
            if remark:
                said[last] = re.sub(r"^noqa: \S+ - ", "", remark.group(1))
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and last:
            said[last] = str(node.value.value)
    return said


def _value(field: FieldInfo) -> str:
    bounds = [
        f"{word} {getattr(rule, name):g}"
        for rule in field.metadata
        for name, word in _BOUNDS.items()
        if getattr(rule, name, None) is not None
    ]
    return ", ".join([_spoken(field.annotation), *bounds])


def _spoken(kind: Any) -> str:
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return _spoken(inner[0])
    if origin is Literal:
        return ", ".join(code(str(word)) for word in inner)
    if origin is list:
        return "list, by commas"
    if origin is dict:
        return "name=value, by commas" if inner[1] is str else "JSON"
    if origin is UnionType or len(inner) > 1:
        return _spoken(next(one for one in inner if one is not type(None)))
    return _SPOKEN.get(kind, "path")


def _default(field: FieldInfo) -> str:
    if field.default_factory is not None:
        return ""
    default = field.default
    if default in (None, PydanticUndefined) or isinstance(default, SecretStr):
        return ""
    if isinstance(default, bool):
        return code(str(default).lower())
    return code(f"{default:g}" if isinstance(default, float) and default < 1e5 else str(default))
