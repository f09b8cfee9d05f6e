"""Tools that a model may call, and the schemas that hold it to calling one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from mnemos.json_schema import check_json_schema

from ..api.depth import check_depth

MAX_TOOLS = 128
MAX_CALLS_AT_ONCE = 8
"""How many calls a model can be held to at once: it must come to an end."""
_COMBINING = ("$ref", "allOf", "anyOf", "oneOf", "patternProperties", "additionalProperties")


def _check_schema(schema: dict[str, Any]) -> dict[str, Any]:
    check_depth(schema)
    return check_json_schema(schema)


Schema = Annotated[dict[str, Any], AfterValidator(_check_schema)]
ToolName = Annotated[str, Field(pattern=r"^[a-zA-Z0-9_.-]{1,64}$")]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Function(_Strict):
    """What a tool is called, what it does and what it takes."""

    name: ToolName
    description: str | None = None
    parameters: Schema | None = None
    strict: bool | None = None
    """A call that is asked for keeps to the schema anyway; others are the model's own words."""


class Tool(_Strict):
    """Something that the model may call."""

    type: Literal["function"]
    function: Function

    def told(self) -> dict[str, Any]:
        """As a chat template tells the model of it."""
        function = self.function.model_dump(exclude_none=True, exclude={"strict"})
        return {"type": "function", "function": {"parameters": _NOTHING, **function}}


class _Named(_Strict):
    name: ToolName


class ToolNamed(_Strict):
    """The one tool that is to be called."""

    type: Literal["function"]
    function: _Named


ToolChoice = Literal["none", "auto", "required"] | ToolNamed

_NOTHING: dict[str, Any] = {"type": "object", "properties": {}}


def schema_of_calls(tools: Sequence[Tool], *, many: bool = False) -> dict[str, Any]:
    """What an answer must be that calls one of the tools, or `many` at once."""
    definitions, call = _calls(tools)
    if many:
        call = {"type": "array", "items": call, "minItems": 1, "maxItems": MAX_CALLS_AT_ONCE}
    return call | {"$defs": definitions}


def schema_of_either(answer: dict[str, Any], tools: Sequence[Tool]) -> dict[str, Any]:
    """What an answer must be that keeps to a schema or calls one of the tools."""
    definitions, call = _calls(tools)
    definitions["answer"] = _moved(answer, "#/$defs/answer")
    return {"anyOf": [{"$ref": "#/$defs/answer"}, *call["anyOf"]], "$defs": definitions}


def _calls(tools: Sequence[Tool]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The definitions of the tools' arguments, and a call of one of the tools."""
    definitions, calls = {}, []
    for index, tool in enumerate(tools):
        place = f"arguments_{index}"
        definitions[place] = _moved(_closed(tool.function.parameters), f"#/$defs/{place}")
        calls.append(
            {
                "type": "object",
                "properties": {
                    "name": {"const": tool.function.name},
                    "arguments": {"$ref": f"#/$defs/{place}"},
                },
                "required": ["name", "arguments"],
                "additionalProperties": False,
            }
        )
    return definitions, {"anyOf": calls}


def _closed(parameters: dict[str, Any] | None) -> dict[str, Any]:
    """An object, without more arguments than are named, unless the schema speaks of others."""
    schema = {"type": "object", **(parameters or _NOTHING)}
    if any(word in schema for word in _COMBINING):
        return schema
    return {"properties": {}, **schema, "additionalProperties": False}


def _moved(node: Any, place: str) -> Any:
    """A schema that has become part of another: its references begin at `place`."""
    if isinstance(node, list):
        return [_moved(child, place) for child in node]
    if not isinstance(node, dict):
        return node
    moved = {name: _moved(child, place) for name, child in node.items()}
    reference = node.get("$ref")
    if isinstance(reference, str):
        moved["$ref"] = place + reference.removeprefix("#")
    return moved
