"""Answers that a schema, an expression or a list of choices holds to a form."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from typing import Any

import pytest
from asking import collect, collect_all, job

from mnemos.cortex.openai.tools import Tool, schema_of_calls
from neuron.errors import InvalidInputError
from neuron.models.job import ChatMessage, JobInput, ResumeState
from neuron.runtimes.engine_client import EngineClient

pytestmark = pytest.mark.asyncio(loop_scope="session")

PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 8},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "moods": {"type": "array", "items": {"enum": ["sad", "glad"]}, "maxItems": 3},
    },
    "required": ["name", "age", "moods"],
    "additionalProperties": False,
}
CODE = r"[A-C]{2}-\d{3}(x|yy)?"
TOWNS = ["Paris", "Parma", "New York", "東京"]


def assert_is_person(text: str) -> None:
    person = json.loads(text)
    assert person.keys() == {"name", "age", "moods"}
    assert isinstance(person["name"], str)
    assert 0 <= person["age"] <= 150
    assert set(person["moods"]) <= {"sad", "glad"}
    assert len(person["moods"]) <= 3


@pytest.mark.parametrize("parameters", [{}, {"temperature": 1.5, "seed": 4}])
async def test_answers_have_the_form_that_was_asked_for(
    engine: EngineClient, parameters: dict[str, Any]
) -> None:
    many = {"max_tokens": 200, **parameters}
    jobs = [
        one
        for prompt in ("Hello", "Who?", "🙂")
        for one in (
            job(prompt, json_schema=PERSON, **many),
            job(prompt, regex=CODE, **many),
            job(prompt, choice=TOWNS, **many),
            job(prompt, **many),
        )
    ]
    answers = [output for _, _, output in await collect_all(engine, jobs)]
    for person, code, town, free in zip(*[iter(answers)] * 4, strict=True):
        assert_is_person(person.result)
        assert re.fullmatch(CODE, code.result)
        assert town.result in TOWNS
        assert {one.metadata["finish_reason"] for one in (person, code, town)} == {"stop"}
        assert free.result not in TOWNS


async def test_a_guided_answer_streams(engine: EngineClient) -> None:
    one = job("Hello", json_schema=PERSON, max_tokens=200, stream=True)
    pieces = [piece async for piece in engine.generate(one)]
    assert len(pieces) > 1
    assert_is_person("".join(piece.text for piece in pieces))


@pytest.mark.parametrize(
    "parameters", [{"ignore_eos": True}, {"min_tokens": 20}, {"stop_token_ids": [2]}]
)
async def test_the_guide_ends_the_answer_whatever_else_was_said_of_its_end(
    engine: EngineClient, parameters: dict[str, Any]
) -> None:
    _, _, output = await collect(engine, job("Hello", choice=TOWNS, **parameters))
    assert output.result in TOWNS
    assert output.metadata["finish_reason"] == "stop"


async def test_a_stop_string_and_max_tokens_cut_a_guided_answer(engine: EngineClient) -> None:
    _, _, stopped = await collect(engine, job("Hello", regex="a{30}b", stop=["aaa"]))
    assert stopped.result == ""
    assert stopped.metadata["stop_reason"] == "aaa"
    _, _, cut = await collect(engine, job("Hello", regex="a{30}b", max_tokens=5))
    assert cut.metadata["finish_reason"] == "length"
    assert set(cut.result) == {"a"}


async def test_an_interrupted_guided_answer_begins_again(engine: EngineClient) -> None:
    one = job("Hello", regex=CODE)
    text, tokens, _ = await collect(engine, one)
    resume = ResumeState(token_ids=tokens[:2], text=text[:1])
    again, new, output = await collect(engine, one, resume)
    assert (again, new) == (text, tokens)
    assert output.metadata["resumed_tokens"] == 0


NESTED: dict[str, Any] = {"type": "string"}
for _ in range(100):
    NESTED = {"type": "array", "items": NESTED}


@pytest.mark.parametrize(
    ("guide", "words"),
    [
        ({"regex": "(a"}, "regex: unclosed group"),
        ({"regex": "(?=a)b"}, "regex: look-around.* not supported"),
        ({"regex": r"(a)\1"}, "regex: backreferences are not supported"),
        ({"regex": "a\x00b"}, "NUL"),
        ({"json_schema": {"type": "strnig"}}, "json_schema: Invalid type: strnig"),
        ({"json_schema": {"$ref": "#/nowhere"}}, "json_schema: .*nowhere"),
        ({"json_schema": {"$ref": "https://example.com/schema"}}, "json_schema: "),
        ({"json_schema": {"type": "integer", "minimum": 5, "maximum": 3}}, "json_schema: Unsat"),
        ({"json_schema": {"type": "array", "contains": {"type": "null"}}}, "json_schema: .*contai"),
        ({"json_schema": NESTED}, "json_schema: .*nested too deeply"),
    ],
)
async def test_a_guide_that_is_none_is_refused_and_hurts_nobody(
    engine: EngineClient, guide: dict[str, Any], words: str
) -> None:
    async with asyncio.TaskGroup() as group:
        other = group.create_task(collect(engine, job("Hello", choice=TOWNS)))
        with pytest.raises(InvalidInputError, match=words) as refusal:
            await collect(engine, job("Hello", **guide))
    assert "\n" not in refusal.value.message
    assert other.result()[2].result in TOWNS


@pytest.mark.parametrize(
    "guide",
    [
        {"regex": "(((a{1,100}){1,100}){1,100}){1,100}b"},
        {"regex": ".*a.{500}"},
        {"json_schema": {"type": "string", "maxLength": 10**9}},
        {"json_schema": {"enum": [str(number) * 5 for number in range(20_000)]}},
        {"json_schema": {"$defs": {"a": {"anyOf": [{"$ref": "#/$defs/a"}]}}, "$ref": "#/$defs/a"}},
    ],
)
async def test_a_guide_that_explodes_costs_its_own_request_alone(
    engine: EngineClient, guide: dict[str, Any]
) -> None:
    async with asyncio.TaskGroup() as group:
        other = group.create_task(collect(engine, job("Hello", ignore_eos=True)))
        async with asyncio.timeout(30):
            with contextlib.suppress(InvalidInputError):  # too complex is a fair answer
                await collect(engine, job("Hello", max_tokens=20, **guide))
    assert other.result()[2].metadata["tokens_generated"] == 24
    assert (await collect(engine, job("Hello", choice=TOWNS)))[2].result in TOWNS


async def test_a_model_is_held_to_a_call_whose_arguments_refer_to_definitions(
    engine: EngineClient,
) -> None:
    shape = {
        "type": "object",
        "properties": {"town": {"$ref": "#/$defs/Town"}},
        "required": ["town"],
        "$defs": {"Town": {"enum": TOWNS}},
    }
    function = {"name": "look", "parameters": shape}
    tool = Tool.model_validate({"type": "function", "function": function})
    one = job("Hello", json_schema=schema_of_calls([tool]), max_tokens=200)
    call = json.loads((await collect(engine, one))[2].result)
    assert call["name"] == "look"
    assert call["arguments"].keys() == {"town"}
    assert call["arguments"]["town"] in TOWNS
    told = JobInput(
        messages=[ChatMessage(role="user", content="Hello")], parameters={"tools": [tool.told()]}
    )
    with pytest.raises(InvalidInputError, match="the chat template of tiny:1 knows no tools"):
        await collect(engine, told)
