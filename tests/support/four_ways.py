"""One and the same prompts, answered streamed, whole, in a batch and by the runtime itself."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

from cortex_tools import eventually
from openai import AsyncOpenAI

from neuron.models.job import ChatMessage, JobInput
from neuron.runtimes.base import EngineSettings
from neuron.runtimes.transformers_runtime import TransformersRuntime

_AT_ONCE = 16
_PLACES = ("Köln", "東京", "Paris", "the moon 🙂", "привет")
Texts = list[str]


def prompts(count: int) -> Texts:
    """Prompts that differ in length and in what a tokenizer makes of them."""
    return [
        f"What is it like in {_PLACES[index % len(_PLACES)]}? " + f"Tell me {index}. " * (index % 7)
        for index in range(count)
    ]


async def whole(client: AsyncOpenAI, asked: Texts, **request: Any) -> Texts:
    """The texts of answers that are told whole."""

    async def one(prompt: str) -> str:
        answer = await client.chat.completions.create(messages=_messages(prompt), **request)
        return answer.choices[0].message.content or ""

    return await _all(one, asked)


async def streamed(client: AsyncOpenAI, asked: Texts, **request: Any) -> Texts:
    """The texts of answers that are streamed."""

    async def one(prompt: str) -> str:
        chunks = await client.chat.completions.create(
            messages=_messages(prompt), stream=True, **request
        )
        return "".join([chunk.choices[0].delta.content or "" async for chunk in chunks])

    return await _all(one, asked)


async def batched(client: AsyncOpenAI, asked: Texts, seconds: float, **request: Any) -> Texts:
    """The texts of a batch's answers."""
    lines = [
        {"custom_id": str(index), "method": "POST", "url": "/v1/chat/completions"}
        | {"body": {"messages": _messages(prompt), **request}}
        for index, prompt in enumerate(asked)
    ]
    content = "\n".join(map(json.dumps, lines)).encode()
    file = await client.files.create(file=("in.jsonl", content), purpose="batch")
    batch = await client.batches.create(
        input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h"
    )

    async def is_done() -> bool:
        return (await client.batches.retrieve(batch.id)).status == "completed"

    await eventually(is_done, "the batch is completed", seconds=seconds)
    done = await client.batches.retrieve(batch.id)
    answers = (await client.files.content(done.output_file_id or "")).text.splitlines()
    texts = {}
    for told in map(json.loads, answers):
        message = told["response"]["body"]["choices"][0]["message"]
        texts[told["custom_id"]] = message["content"]
    return [texts[str(index)] for index in range(len(asked))]


async def direct(folder: Path, asked: Texts, parameters: dict[str, Any]) -> Texts:
    """The texts that the runtime gives without anything around it; the model is in `folder`."""
    cache = folder.parent / "direct"
    (cache / "chat").mkdir(parents=True)
    (cache / "chat" / "1").symlink_to(folder)
    runtime = TransformersRuntime(EngineSettings(model_cache_dir=cache, max_batch_size=8))
    await runtime.load_model("chat", "1", {})

    async def one(prompt: str) -> str:
        turns = [ChatMessage(role="user", content=prompt)]
        answer = await runtime.execute(JobInput(messages=turns, parameters=parameters))
        return str(answer.result)

    try:
        return await _all(one, asked)
    finally:
        await runtime.unload_model()


def _messages(prompt: str) -> Any:
    return [{"role": "user", "content": prompt}]


async def _all(one: Any, asked: Texts) -> Texts:
    room = asyncio.Semaphore(_AT_ONCE)

    async def with_room(prompt: str) -> str:
        async with room:
            return str(await one(prompt))

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(with_room(prompt)) for prompt in asked]
    return [task.result() for task in tasks]
