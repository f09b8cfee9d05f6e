"""What schemas are taken, wherever the platform takes one."""

from __future__ import annotations

from typing import Any

import pytest

from mnemos.json_schema import check_json_schema

NUMBER = {"type": "number"}


@pytest.mark.parametrize(
    "schema",
    [
        {},
        {"$ref": "#"},
        {"$defs": {"a/b c": NUMBER}, "$ref": "#/$defs/a~1b%20c"},
        {"$defs": {"n": {"$anchor": "number", **NUMBER}}, "items": {"$ref": "#number"}},
        {"$id": "http://somewhere/x", "$defs": {"n": NUMBER}, "items": {"$ref": "#/$defs/n"}},
        {"$defs": {"n": {"$id": "inner", "$defs": {"m": NUMBER}, "$ref": "#/$defs/m"}}},
        {"prefixItems": [NUMBER], "items": {"$ref": "#/prefixItems/0"}},
    ],
)
def test_a_schema_that_refers_to_its_own_parts_is_taken(schema: dict[str, Any]) -> None:
    assert check_json_schema(schema) is schema


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ({"type": "no such"}, "not a valid JSON Schema at type"),
        ({"pattern": "("}, "not a valid JSON Schema at pattern"),
        ({"$ref": "http://elsewhere/x"}, "only references to '#"),
        ({"$ref": "other.json"}, "only references to '#"),
        ({"items": {"$ref": "#/$defs/n"}}, "refers to '#/\\$defs/n', which it does not define"),
        ({"$ref": "#anchor"}, "'#anchor', which it does not define"),
        ({"prefixItems": [NUMBER], "items": {"$ref": "#/prefixItems/x"}}, "does not define"),
    ],
)
def test_any_other_is_refused_in_words(schema: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        check_json_schema(schema)
