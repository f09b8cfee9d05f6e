"""Tools, as OpenAI's client declares them, streams their calls and parses them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from enum import Enum
from pathlib import Path
from typing import Any

import openai
import pytest
from cortex_tools import Cortex
from openai import AsyncOpenAI, pydantic_function_tool
from openai_tools import complete, cortex_by_hand, fail, official_client
from pydantic import BaseModel

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(180)]


class Town(Enum):
    PARIS = "Paris"
    ROME = "Rome"


class Place(BaseModel):
    town: Town
    is_near: bool


class Look(BaseModel):
    """See what the weather is."""

    place: Place
    unit: Town


class Leave(BaseModel):
    """Go away."""

    quickly: bool


TOOLS: list[Any] = [pydantic_function_tool(Look), pydantic_function_tool(Leave)]
GREEDY: dict[str, Any] = {
    "model": "caller",
    "messages": [{"role": "user", "content": "What is the weather?"}],
    "temperature": 0,
}
HERMES = 'I look.\n<tool_call>\n{"name": "Leave", "arguments": {"quickly": true}}\n</tool_call>'


async def streamed(client: AsyncOpenAI, **request: Any) -> Any:
    async with client.chat.completions.stream(**request) as stream:
        async for _ in stream:
            continue
        return await stream.get_final_completion()


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "Look"}}])
async def test_a_model_that_must_call_does(client: AsyncOpenAI, choice: Any) -> None:
    request = GREEDY | {"tools": TOOLS, "tool_choice": choice}
    whole = await client.chat.completions.parse(**request)
    pieces = await streamed(client, **request)
    for answer in (whole, pieces):
        [told] = answer.choices
        assert told.finish_reason == "tool_calls"
        [call] = told.message.tool_calls or []
        assert isinstance(call.function.parsed_arguments, Look | Leave)
        assert choice == "required" or call.function.name == "Look"
        assert not told.message.content
    first, second = (each.choices[0].message.tool_calls for each in (whole, pieces))
    assert [each.function for each in first or []] == [each.function for each in second or []]


async def test_several_calls_at_once_where_they_are_asked_for(client: AsyncOpenAI) -> None:
    request = GREEDY | {"tools": TOOLS, "tool_choice": "required", "parallel_tool_calls": True}
    answer = await streamed(client, **request)
    calls = answer.choices[0].message.tool_calls
    assert 1 <= len(calls) <= 8
    assert len({call.id for call in calls}) == len(calls)
    assert all(isinstance(call.function.parsed_arguments, Look | Leave) for call in calls)


async def test_an_answer_is_parsed_into_a_model(client: AsyncOpenAI) -> None:
    changes: list[dict[str, Any]] = [{}, {"tools": TOOLS}]
    for more in changes:
        parsed = await client.chat.completions.parse(**GREEDY, response_format=Look, **more)
        message = parsed.choices[0].message
        assert message.parsed is not None or message.tool_calls
    whole = await client.chat.completions.parse(**GREEDY, response_format=Look)
    assert isinstance(whole.choices[0].message.parsed, Look)


async def test_calls_and_results_reach_the_model(client: AsyncOpenAI) -> None:
    asked = await client.chat.completions.create(**GREEDY, tools=TOOLS, tool_choice="required")
    message = asked.choices[0].message
    [call] = message.tool_calls or []
    result = {"role": "tool", "tool_call_id": call.id, "content": "Rain."}
    told = {"messages": [*GREEDY["messages"], message.model_dump(), result], "max_tokens": 1}
    counts = []
    changes: list[dict[str, Any]] = [{}, {"tools": TOOLS}, {"tools": TOOLS, "tool_choice": "none"}]
    for change in changes:
        answer = await client.chat.completions.create(**GREEDY | told | change)
        assert answer.usage is not None
        counts.append(answer.usage.prompt_tokens)
    assert asked.usage is not None
    without, with_tools, with_none = counts
    assert without == with_none < with_tools
    assert with_tools > asked.usage.prompt_tokens, "the call and its result are in the prompt"


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"tool_choice": "required"}, None),
        ({"tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "X"}}}, None),
        ({"tools": [*TOOLS, TOOLS[0]]}, None),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools.0.function.name"),
        ({"messages": [{"role": "tool", "content": "Rain."}]}, "messages.0"),
    ],
)
async def test_what_is_wrong_with_tools_is_said(
    client: AsyncOpenAI, change: dict[str, Any], param: str | None
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        await client.chat.completions.create(**GREEDY | change)
    assert caught.value.param == param
    assert "tool" in caught.value.message


class ByHand:
    """A CORTEX whose worker says what the test wants said."""

    def __init__(self, cortex: Cortex, client: AsyncOpenAI) -> None:
        self._cortex = cortex
        self._client = client

    async def answer(self, text: str, **request: Any) -> tuple[Any, Any]:
        """The text as the answer to a request, streamed and whole."""
        asked = GREEDY | {"model": "tiny", "tools": TOOLS} | request
        answers = []
        for is_streamed in (True, False):
            async with asyncio.TaskGroup() as group:
                if is_streamed:
                    answer = group.create_task(streamed(self._client, **asked))
                else:
                    answer = group.create_task(self._client.chat.completions.create(**asked))
                [leased] = await self._cortex.acquire()
                if is_streamed:
                    await self._cortex.chunks(leased.job.job_id, *text)
                await complete(self._cortex, leased.job.job_id, text)
            answers.append(answer.result().choices[0])
        return answers[0], answers[1]


@pytest.fixture
async def by_hand(tmp_path: Path) -> AsyncIterator[ByHand]:
    async with cortex_by_hand(tmp_path) as cortex, official_client(cortex.server.http_url) as sdk:
        yield ByHand(cortex, sdk)


@pytest.mark.asyncio(loop_scope="function")
async def test_what_a_model_writes_becomes_calls(by_hand: ByHand) -> None:
    for choice in await by_hand.answer(HERMES):
        assert choice.finish_reason == "tool_calls"
        assert choice.message.content == "I look.\n"
        [call] = choice.message.tool_calls
        assert (call.type, call.function.name) == ("function", "Leave")
        assert json.loads(call.function.arguments) == {"quickly": True}
    for choice in await by_hand.answer("It <tool> rains."):
        assert (choice.message.content, choice.finish_reason) == ("It <tool> rains.", "stop")
        assert not choice.message.tool_calls
    twice = HERMES + HERMES
    for choice in await by_hand.answer(twice, parallel_tool_calls=False):
        assert len(choice.message.tool_calls) == 1
    for choice in await by_hand.answer(HERMES, tool_choice="none"):
        assert (choice.message.content, choice.message.tool_calls) == (HERMES, None)


@pytest.mark.parametrize("choice", ["auto", "required"])
@pytest.mark.asyncio(loop_scope="function")
async def test_a_call_that_a_crash_cut_in_two_is_told_once(tmp_path: Path, choice: Any) -> None:
    call = '{"name": "Leave", "arguments": {"quickly": true}}'
    text = f"<tool_call>{call}</tool_call>" if choice == "auto" else call
    asked = GREEDY | {"model": "tiny", "tools": TOOLS, "tool_choice": choice}
    async with (
        cortex_by_hand(tmp_path) as cortex,
        official_client(cortex.server.http_url) as client,
        asyncio.TaskGroup() as group,
    ):
        answer = group.create_task(streamed(client, **asked))
        [leased] = await cortex.acquire()
        job_id = leased.job.job_id
        await cortex.chunks(job_id, *text[:30])
        await fail(cortex, job_id, "engine_crashed", retryable=True)
        [second] = await cortex.acquire(wait=10)
        rest = text[len(second.resume.text) :]
        await cortex.chunks(job_id, *rest, attempt=second.attempt)
        await complete(cortex, job_id, text, second.attempt)
        [told] = (await answer).choices
    [made] = told.message.tool_calls
    assert (made.function.name, made.function.parsed_arguments) == ("Leave", Leave(quickly=True))
    assert not told.message.content
