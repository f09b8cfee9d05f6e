"""What people do with OpenAI's client, done to a model of ours."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import four_ways
import jsonschema
import openai
import pytest
from openai import AsyncOpenAI
from openai.types.chat import ChatCompletionChunk
from openai_platform import CONTEXT
from tiny_llama import build_tiny_llama

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(180)]

ASKED: list[Any] = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": [{"type": "text", "text": "Where is Paris?"}]},
]
GREEDY: dict[str, Any] = {"model": "chat:1", "messages": ASKED, "temperature": 0}


async def chunks_of(client: AsyncOpenAI, **request: Any) -> list[ChatCompletionChunk]:
    stream = await client.chat.completions.create(**request, stream=True)
    return [chunk async for chunk in stream]


async def test_a_chat_is_answered(client: AsyncOpenAI) -> None:
    answer = await client.chat.completions.create(**GREEDY, max_tokens=12)
    assert (answer.object, answer.model) == ("chat.completion", "chat:1")
    [choice] = answer.choices
    assert (choice.message.role, choice.finish_reason) == ("assistant", "length")
    assert choice.message.content
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 12
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + 12
    assert answer.id.startswith("chatcmpl-job_")
    assert answer._request_id is not None


async def test_the_pieces_of_a_stream_are_the_answer(client: AsyncOpenAI) -> None:
    whole = await client.chat.completions.create(**GREEDY, max_tokens=40)
    chunks = await chunks_of(
        client, **GREEDY, max_tokens=40, stream_options={"include_usage": True}
    )
    *pieces, end, counted = chunks
    text = "".join(piece.choices[0].delta.content or "" for piece in pieces)
    assert text == whole.choices[0].message.content
    assert pieces[0].choices[0].delta.role == "assistant"
    assert not any(piece.choices[0].delta.role for piece in pieces[1:])
    assert end.choices[0].finish_reason == "length"
    assert (counted.choices, counted.usage) == ([], whole.usage)
    assert len({chunk.id for chunk in chunks}) == 1


async def test_streamed_whole_batched_and_direct_answers_are_the_same(
    client: AsyncOpenAI, tmp_path: Path
) -> None:
    asked = four_ways.prompts(20)
    request: dict[str, Any] = {"model": "chat", "temperature": 0, "max_tokens": 24}
    whole = await four_ways.whole(client, asked, **request)
    assert len(set(whole)) > len(asked) / 2, "the model says different things"
    assert await four_ways.streamed(client, asked, **request) == whole
    assert await four_ways.batched(client, asked, 60, **request) == whole
    folder = build_tiny_llama(tmp_path / "model", context=CONTEXT)
    parameters = {"temperature": 0, "max_tokens": 24}
    assert await four_ways.direct(folder, asked, parameters) == whole


async def test_several_choices_are_the_same_streamed_and_whole(client: AsyncOpenAI) -> None:
    request = GREEDY | {"temperature": 1, "seed": 7, "n": 3, "max_tokens": 10}
    whole = await client.chat.completions.create(**request)
    texts = ["", "", ""]
    for chunk in await chunks_of(client, **request):
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
    assert texts == [choice.message.content for choice in whole.choices]
    assert len(set(texts)) == 3


async def test_stop_and_max_completion_tokens(client: AsyncOpenAI) -> None:
    whole = await client.chat.completions.create(**GREEDY, max_completion_tokens=20)
    text = whole.choices[0].message.content or ""
    cut = text[len(text) // 2 :][:2]
    stopped = await client.chat.completions.create(**GREEDY, max_tokens=20, stop=cut)
    assert stopped.choices[0].finish_reason == "stop"
    assert stopped.choices[0].message.content == text.split(cut)[0]


async def test_without_a_limit_it_speaks_until_its_context_is_full(client: AsyncOpenAI) -> None:
    answer = await client.chat.completions.create(**GREEDY, extra_body={"ignore_eos": True})
    assert answer.usage is not None
    assert answer.usage.total_tokens == 512
    assert answer.choices[0].finish_reason == "length"


async def test_log_probabilities(client: AsyncOpenAI) -> None:
    answer = await client.chat.completions.create(
        **GREEDY, max_tokens=3, logprobs=True, top_logprobs=2
    )
    told = answer.choices[0].logprobs
    assert told is not None
    assert told.content is not None
    assert len(told.content) == 3
    for token in told.content:
        assert token.logprob == token.top_logprobs[0].logprob <= 0
        assert bytes(token.bytes or []).decode() == token.token


async def test_an_answer_of_a_form(client: AsyncOpenAI) -> None:
    schema = {
        "type": "object",
        "properties": {"city": {"enum": ["Paris", "Rome"]}},
        "required": ["city"],
        "additionalProperties": False,
    }
    answer = await client.chat.completions.create(
        **GREEDY,
        response_format={"type": "json_schema", "json_schema": {"name": "a", "schema": schema}},
    )
    jsonschema.validate(json.loads(answer.choices[0].message.content or ""), schema)


async def test_completions_of_several_prompts(client: AsyncOpenAI) -> None:
    request: dict[str, Any] = {
        "model": "chat",
        "prompt": ["Rome is", "Paris is"],
        "temperature": 0,
        "max_tokens": 6,
        "echo": True,
    }
    whole = await client.completions.create(**request)
    assert [choice.index for choice in whole.choices] == [0, 1]
    assert [choice.text[:7] for choice in whole.choices] == ["Rome is", "Paris i"]
    texts = ["", ""]
    async for chunk in await client.completions.create(**request, stream=True):
        for choice in chunk.choices:
            texts[choice.index] += choice.text
    assert texts == [choice.text for choice in whole.choices]
    scored = await client.completions.create(
        model="chat", prompt="Rome is", max_tokens=2, temperature=0, logprobs=1
    )
    told = scored.choices[0].logprobs
    assert told is not None
    assert told.token_logprobs is not None
    assert len(told.token_logprobs) == 2
    assert told.text_offset == [0, len((told.tokens or [""])[0])]


async def test_embeddings_as_numbers_and_as_bytes_are_the_same(client: AsyncOpenAI) -> None:
    texts = ["one", "two"]
    packed = await client.embeddings.create(model="reader", input=texts)
    plain = await client.embeddings.create(model="reader", input=texts, encoding_format="float")
    assert [each.index for each in packed.data] == [0, 1]
    for one, other in zip(packed.data, plain.data, strict=True):
        assert one.embedding == pytest.approx(other.embedding, rel=1e-6)
    assert packed.usage.prompt_tokens > 0


async def test_models(client: AsyncOpenAI) -> None:
    models = [model.id async for model in client.models.list()]
    assert sorted(models) == ["caller:1", "chat:1", "reader:1"]
    assert (await client.models.retrieve("chat")).id == "chat:1"
    with pytest.raises(openai.NotFoundError) as caught:
        await client.models.retrieve("org/other:lora")
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"temperature": 3}, "temperature"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"messages": []}, "messages"),
        ({"max_token": 5}, "max_token"),
        ({"n": 99}, "n"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
        ({"response_format": {"type": "json_schema"}}, "response_format"),
    ],
)
async def test_what_is_wrong_is_named(
    client: AsyncOpenAI, change: dict[str, Any], param: str
) -> None:
    request = GREEDY | change
    with pytest.raises(openai.BadRequestError) as caught:
        await client.post("/chat/completions", body=request, cast_to=object)
    assert caught.value.param == param
    assert caught.value.type == "invalid_request_error"
    assert param in caught.value.message


async def test_a_model_is_asked_for_what_it_can(client: AsyncOpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as unknown:
        await client.chat.completions.create(**GREEDY | {"model": "nobody:1"})
    assert unknown.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError):
        await client.embeddings.create(model="chat", input="x")
    with pytest.raises(openai.BadRequestError) as reads:
        await client.chat.completions.create(**GREEDY | {"model": "reader"})
    assert reads.value.code == "invalid_input"
    with pytest.raises(openai.BadRequestError) as longer:
        await client.embeddings.create(model="reader", input="x", dimensions=3)
    assert "dimensions" in longer.value.message
