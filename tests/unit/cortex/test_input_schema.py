"""Inputs are checked against their model's schema: where, in which words, and in bounded time."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import uvloop

from mnemos.cortex.api.input_check import InputCheck
from mnemos.cortex.api.submission import parse_job
from mnemos.cortex.genome_lookup import CatalogModel
from mnemos.cortex.input_schema.checker import (
    CheckTooSlowError,
    CheckUnavailableError,
    InputChecker,
    InputFault,
    InputSchema,
    SchemaUnusableError,
)
from mnemos.cortex.input_schema.faults import ReadySchema
from mnemos.cortex.input_schema.instances import instances_of
from mnemos.http import ApiError

SLOW = InputSchema.of(
    {
        "$defs": {
            "0": {"type": "object"},
            **{
                str(level): {"allOf": [{"$ref": f"#/$defs/{level - 1}"}] * 2}
                for level in range(1, 40)
            },
        },
        "$ref": "#/$defs/39",
    }
)
"""Each definition is checked twice by the next: 2^39 checks."""


@pytest.fixture
async def checker() -> AsyncIterator[InputChecker]:
    checker = InputChecker(processes=1, cpu_seconds=0.4)
    yield checker
    await checker.close()


def first_fault(
    schema: dict[str, Any], given: dict[str, Any], *, tensors: bool = False, scored: bool = False
) -> tuple[str, str] | None:
    checks = ReadySchema(schema)
    for instance in instances_of(given, tensors=tensors, scored=scored):
        fault = checks.fault(instance.value)
        if fault is not None:
            return instance.pointer(fault[0]), fault[1]
    return None


@pytest.mark.parametrize(
    ("schema", "value", "place", "words"),
    [
        ({"type": "number"}, "1", "", "must be a number"),
        ({"type": ["string", "null"]}, 1, "", "must be a text or null"),
        ({"required": ["a", "b", "c"]}, {"b": 1}, "", 'must have "a" and "c"'),
        ({"properties": {"a": {}}, "additionalProperties": False}, {"a": 1, "z": 2}, "",
         'must not have "z"'),
        ({"properties": {"a/b": {"items": {"maximum": 5}}}}, {"a/b": [1, 9]}, "/a~1b/1",
         "must be at most 5"),
        ({"properties": {"m~n": {"enum": ["x", 1]}}}, {"m~n": 2}, "/m~0n",
         'must be one of ["x", 1]'),
        ({"pattern": "^[a-c]+$"}, "abd", "", 'must match the pattern "^[a-c]+$"'),
        ({"pattern": "^(?=.*d)"}, "abc", "", 'must match the pattern "^(?=.*d)"'),
        ({"minItems": 2}, [1], "", "must have 2 items or more"),
        ({"not": {"type": "null"}}, None, "", 'must agree with not: {"type": "null"}'),
        ({"prefixItems": [{"$ref": "#/$defs/n"}], "$defs": {"n": {"const": 1}}}, [2], "/0",
         "must be 1"),
    ],
)  # fmt: skip
def test_a_fault_is_told_by_its_place_and_what_was_expected(
    schema: dict[str, Any], value: Any, place: str, words: str
) -> None:
    row = {"v": value}
    wrapped = {"properties": {"v": schema}, "$defs": schema.get("$defs", {})}
    assert first_fault(wrapped, {"inputs": [row]}, tensors=True) == (
        f"/input/inputs/0/v{place}",
        words,
    )


PROMPTS = {
    "type": "object",
    "required": ["prompt"],
    "properties": {
        "prompt": {"type": "string", "maxLength": 5},
        "parameters": {"properties": {"max_tokens": {"maximum": 10}}},
    },
    "additionalProperties": False,
}


@pytest.mark.parametrize(
    ("given", "pointer"),
    [
        ({"prompt": "short"}, None),
        ({"prompt": "too long"}, "/input/prompt"),
        ({"messages": []}, "/input"),
        ({"inputs": ["a", "too long"]}, "/input/inputs/1"),
        ({"inputs": ["a", {"prompt": "too long", "id": 7}]}, "/input/inputs/1/prompt"),
        ({"inputs": ["a"], "parameters": {"max_tokens": 11}}, "/input/parameters/max_tokens"),
        (
            {"inputs": [{"prompt": "a", "parameters": {"max_tokens": 11}}]},
            "/input/inputs/0/parameters/max_tokens",
        ),
        ({"inputs": ["a"], "context": "by the job"}, "/input/inputs/0"),
        ({"inputs": [{"prompt": "a", "reference": "b"}]}, None),
    ],
)
def test_one_schema_does_for_single_inputs_and_for_rows(
    given: dict[str, Any], pointer: str | None
) -> None:
    fault = first_fault(PROMPTS, given, scored=True)
    assert (fault and fault[0]) == pointer


def test_a_row_of_tensors_is_checked_as_it_is_written() -> None:
    schema = {"properties": {"x": {"items": {"type": "number"}}}, "additionalProperties": False}
    row = {"x": [1, 2.5], "id": "mine", "reference": "cat"}
    given = {"inputs": [row], "parameters": {"metrics": ["f1"]}}
    assert first_fault(schema, given, tensors=True, scored=True) is None
    assert first_fault(schema, given, tensors=True) == (
        "/input/inputs/0",
        'must not have "reference"',
    )


async def test_schemas_are_checked_in_another_process_and_kept_ready(checker: InputChecker) -> None:
    schema = InputSchema.of({"properties": {"prompt": {"maxLength": 2}}})
    for _ in range(3):
        assert await checker.check(schema, '{"prompt":"ab"}') is None
        fault = await checker.check(schema, '{"prompt":"abc"}')
        assert fault == InputFault("/input/prompt", "must have 2 characters at most")
    assert len(checker._idle) == 1


@pytest.mark.parametrize(
    ("schema", "word"),
    [
        ({"type": "number " * 3}, "not valid"),
        ({"$ref": "#/$defs/none"}, "defs/none"),
        ({"$ref": "http://127.0.0.1:9/x"}, "http://127.0.0.1:9/x"),
        ({"$ref": "#"}, "circles"),
    ],
)
async def test_a_schema_that_cannot_be_used_says_so(
    checker: InputChecker, schema: dict[str, Any], word: str
) -> None:
    with pytest.raises(SchemaUnusableError, match=word):
        await checker.check(InputSchema.of(schema), '{"prompt":"a"}')


@pytest.mark.parametrize(
    ("schema", "prompt"),
    [
        (SLOW, "a"),
        (InputSchema.of({"properties": {"prompt": {"pattern": r"^(?=a)(a+)+$"}}}), "a" * 60 + "!"),
    ],
)
async def test_what_takes_too_long_ends_the_process_and_nothing_else(
    checker: InputChecker, schema: InputSchema, prompt: str
) -> None:
    given = json.dumps({"prompt": prompt})
    with pytest.raises(CheckTooSlowError, match="too long"):
        await checker.check(schema, given)
    assert not checker._idle
    with pytest.raises(CheckTooSlowError):
        await checker.check(schema, given)
    assert not checker._idle, "it was begun again"
    assert await checker.check(InputSchema.of({"type": "object"}), given) is None


async def test_patterns_that_backtrack_for_ever_elsewhere_take_no_time(
    checker: InputChecker,
) -> None:
    schema = InputSchema.of({"properties": {"prompt": {"pattern": "^(a+)+$"}}})
    fault = await checker.check(schema, json.dumps({"prompt": "a" * 5000 + "!"}))
    assert fault is not None
    assert fault.expected == 'must match the pattern "^(a+)+$"'


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run])
def test_a_process_that_was_lost_is_replaced(run: Callable[[Any], None]) -> None:
    run(_lose_a_process())


async def _lose_a_process() -> None:
    checker = InputChecker()
    schema = InputSchema.of({"type": "object"})
    assert await checker.check(schema, "{}") is None
    [process] = checker._idle
    process.kill()
    await process.wait()
    assert await checker.check(schema, "{}") is None
    assert checker._idle != [process]
    await checker.close()


async def test_whoever_finds_no_place_in_time_is_told_to_come_again() -> None:
    checker = InputChecker(processes=0, wait_seconds=0.01)
    with pytest.raises(CheckUnavailableError):
        await checker.check(InputSchema.of({}), "{}")


async def test_a_refused_input_is_a_422_with_a_pointer(checker: InputChecker) -> None:
    body = {"model": {"family": "tiny"}, "input": {"prompt": "Hi", "parameters": {"n": 3}}}
    schema = {"properties": {"parameters": {"properties": {"n": {"maximum": 2}}}}}
    model = CatalogModel("tiny", "2", "transformers", input_schema=InputSchema.of(schema))
    with pytest.raises(ApiError) as caught:
        await InputCheck(checker).check(parse_job(body), json.dumps(body["input"]), model)
    error = caught.value
    assert (error.status_code, error.code, error.field) == (422, "invalid_input", "input")
    assert error.message == (
        "input: /input/parameters/n must be at most 2, by the input schema of tiny:2."
    )


async def test_of_one_request_only_one_slow_input_is_checked(checker: InputChecker) -> None:
    model = CatalogModel("tiny", "2", "transformers", input_schema=SLOW)
    checks = InputCheck(checker)
    words = ["takes too long", "another took too long"]
    for number, word in enumerate(words):
        body = {"model": {"family": "tiny"}, "input": {"prompt": str(number)}}
        with pytest.raises(ApiError, match=word):
            await checks.check(parse_job(body), json.dumps(body["input"]), model)
