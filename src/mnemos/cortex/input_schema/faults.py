"""What is wrong with an input by its model's schema: the place, and what was expected there."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from itertools import islice
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError, best_match
from jsonschema.validators import extend
from pydantic_core import SchemaError, SchemaValidator, core_schema
from referencing import Registry

from .instances import Path

MOST_FAULTS = 50
"""So many are looked at to find the one to tell."""
MAX_QUOTED = 120


class ReadySchema:
    """A schema made ready to check with.

    Raises what jsonschema raises for a schema that is none, at once or when it is first used.
    """

    def __init__(self, schema: Mapping[str, Any]) -> None:
        Draft202012Validator.check_schema(schema)
        # With a registry of its own nothing is ever fetched.
        self._validator = _Checks(schema, registry=Registry())

    def fault(self, instance: Any) -> tuple[Path, str] | None:
        """The most telling fault: its place, and a sentence's end; None if there is none."""
        faults = list(islice(self._validator.iter_errors(instance), MOST_FAULTS))
        if not faults:
            return None
        worst = best_match(faults)
        return list(worst.absolute_path), _expectation(worst)


# ---------------------------------------------------------------- patterns


def _pattern(validator: Any, pattern: str, instance: Any, schema: Any) -> Iterator[ValidationError]:
    if isinstance(instance, str) and not _matcher(pattern)(instance):
        yield ValidationError("does not match")


@lru_cache(maxsize=256)
def _matcher(pattern: str) -> Callable[[str], object]:
    """Search in linear time; what only a backtracking engine can do takes the time it takes."""
    try:
        schema = core_schema.str_schema(pattern=pattern, regex_engine="rust-regex")
        return SchemaValidator(schema).isinstance_python
    except SchemaError:
        return re.compile(pattern).search


_Checks: Any = extend(  # type: ignore[no-untyped-call]
    Draft202012Validator, {"pattern": _pattern}
)


# ---------------------------------------------------------------- words

_TYPES = {
    "object": "an object",
    "array": "a list",
    "string": "a text",
    "number": "a number",
    "integer": "a whole number",
    "boolean": "true or false",
    "null": "null",
}
_PHRASES = {
    "enum": "must be one of {}",
    "const": "must be {}",
    "pattern": "must match the pattern {}",
    "minimum": "must be at least {}",
    "maximum": "must be at most {}",
    "exclusiveMinimum": "must be more than {}",
    "exclusiveMaximum": "must be less than {}",
    "multipleOf": "must be a multiple of {}",
    "minLength": "must have {} characters or more",
    "maxLength": "must have {} characters at most",
    "minItems": "must have {} items or more",
    "maxItems": "must have {} items at most",
    "uniqueItems": "must not have an item twice",
    "minProperties": "must have {} properties or more",
    "maxProperties": "must have {} properties at most",
}


def _expectation(error: ValidationError) -> str:
    expected: Any = error.validator_value
    given: Any = error.instance
    keyword = str(error.validator)
    if keyword in _PHRASES:
        return _PHRASES[keyword].format(_quoted(expected))
    if keyword == "type":
        kinds = [expected] if isinstance(expected, str) else expected
        return f"must be {' or '.join(_TYPES[kind] for kind in kinds)}"
    if keyword == "required":
        return f"must have {_names(name for name in expected if name not in given)}"
    if keyword in ("additionalProperties", "unevaluatedProperties") and expected is False:
        return f"must not have {_names(_unknown(given, error.schema))}"
    return f"must agree with {keyword}: {_quoted(expected)}"


def _unknown(given: Mapping[str, Any], known: Any) -> Iterator[str]:
    """The properties that a schema does not name."""
    for name in given:
        patterns = known.get("patternProperties", {})
        if name not in known.get("properties", {}) and not any(
            re.search(pattern, name) for pattern in patterns
        ):
            yield name


def _names(names: Iterator[str]) -> str:
    return " and ".join(_quoted(name) for name in islice(names, 3))


def _quoted(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= MAX_QUOTED else f"{text[: MAX_QUOTED - 1]}…"
