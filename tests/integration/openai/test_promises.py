"""What a client of /v1 is promised when things go wrong: a worker under the test's hand."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
from cortex_tools import Cortex, eventually
from openai import AsyncOpenAI
from openai_tools import complete, cortex_by_hand, fail, official_client

CHAT: dict[str, Any] = {"model": "tiny", "messages": [{"role": "user", "content": "Hi"}]}
STREAM = CHAT | {"stream": True}


@pytest.fixture
async def cortex(tmp_path: Path) -> AsyncIterator[Cortex]:
    async with cortex_by_hand(tmp_path) as cortex:
        yield cortex


@pytest.fixture
async def client(cortex: Cortex) -> AsyncIterator[AsyncOpenAI]:
    async with official_client(cortex.server.http_url) as client:
        yield client


class EventReader:
    """Reads a stream's events one by one."""

    def __init__(self, response: httpx2.Response) -> None:
        self._lines = response.aiter_lines()

    async def next(self) -> str:
        async for line in self._lines:
            if line.startswith("data: "):
                return line.removeprefix("data: ")
        return ""

    async def text(self) -> str:
        told = json.loads(await self.next())
        return str(told["choices"][0]["delta"].get("content", ""))

    async def error(self) -> dict[str, Any]:
        told: dict[str, Any] = json.loads(await self.next())["error"]
        return told


async def status(cortex: Cortex, job_id: str) -> str:
    return str((await cortex.job(job_id))["status"])


async def test_a_client_that_goes_away_cancels_its_job(cortex: Cortex) -> None:
    with pytest.raises(httpx2.ReadTimeout):
        await cortex.http.post("/v1/chat/completions", json=CHAT, timeout=0.2)
    [waiting] = (await cortex.http.get("/api/v1/jobs")).json()["jobs"]

    async def is_cancelled() -> bool:
        return await status(cortex, waiting["job_id"]) == "cancelled"

    await eventually(is_cancelled, "the job is cancelled")


async def test_a_reader_that_goes_away_cancels_its_job(cortex: Cortex) -> None:
    async with cortex.http.stream("POST", "/v1/chat/completions", json=STREAM) as response:
        [leased] = await cortex.acquire()
        job_id = leased.job.job_id
        await cortex.chunks(job_id, "Hel")
        assert await EventReader(response).text() == "Hel"

    async def is_cancelled() -> bool:
        return bool((await cortex.job(job_id))["cancel_requested"])

    await eventually(is_cancelled, "the job is cancelled")


async def test_with_a_key_the_same_request_finds_its_answer(cortex: Cortex) -> None:
    key = {"Idempotency-Key": "one"}
    with pytest.raises(httpx2.ReadTimeout):
        await cortex.http.post("/v1/chat/completions", json=CHAT, headers=key, timeout=0.2)
    [leased] = await cortex.acquire()
    await complete(cortex, leased.job.job_id, "Hello")
    answers = [
        (await cortex.http.post("/v1/chat/completions", json=CHAT, headers=key)).json()
        for _ in range(2)
    ]
    assert answers[0] == answers[1]
    assert answers[0]["choices"][0]["message"]["content"] == "Hello"
    other = await cortex.http.post(
        "/v1/chat/completions", json=CHAT | {"temperature": 0}, headers=key
    )
    assert other.status_code == 400, "clients would repeat a 409"
    assert other.json()["error"]["code"] == "conflict"


async def test_a_stream_whose_job_fails_ends_in_an_error(
    cortex: Cortex, client: AsyncOpenAI
) -> None:
    stream = await client.chat.completions.create(**STREAM)
    [leased] = await cortex.acquire()
    await cortex.chunks(leased.job.job_id, "Hel")
    await fail(cortex, leased.job.job_id, "invalid_input")
    texts: list[str | None] = []

    async def read() -> None:
        async for chunk in stream:
            texts.append(chunk.choices[0].delta.content)  # noqa: PERF401 - what came before counts

    with pytest.raises(openai.APIError, match="It is broken") as caught:
        await read()
    assert texts == ["Hel"]
    assert caught.value.code == "invalid_input"


async def test_a_stream_that_cortex_leaves_ends_in_an_error(cortex: Cortex) -> None:
    async with cortex.http.stream("POST", "/v1/chat/completions", json=STREAM) as response:
        [leased] = await cortex.acquire()
        await cortex.chunks(leased.job.job_id, "Hel")
        reader = EventReader(response)
        assert await reader.text() == "Hel"
        cortex.server.notifier.close()
        assert (await reader.error())["code"] == "unavailable"
        assert await reader.next() == ""


@pytest.mark.parametrize(("again", "goes_on"), [("Hello", True), ("Howdy", False)])
async def test_an_attempt_that_begins_again_repeats_nothing(
    cortex: Cortex, again: str, goes_on: bool
) -> None:
    guided = STREAM | {"response_format": {"type": "json_object"}}
    async with cortex.http.stream("POST", "/v1/chat/completions", json=guided) as response:
        [leased] = await cortex.acquire()
        job_id = leased.job.job_id
        reader = EventReader(response)
        await cortex.chunks(job_id, "Hel")
        assert await reader.text() == "Hel"
        await fail(cortex, job_id, "engine_crashed", retryable=True)
        [second] = await cortex.acquire(wait=10)
        await cortex.chunks(job_id, *again, attempt=second.attempt)
        await complete(cortex, job_id, again, second.attempt)
        if goes_on:
            text = ""
            while (event := await reader.next()) != "[DONE]":
                text += json.loads(event)["choices"][0]["delta"].get("content", "")
            assert text == "lo"
        else:
            assert (await reader.error())["code"] == "restarted"


@pytest.mark.parametrize(
    ("code", "expected"),
    [("invalid_input", 400), ("model_not_found", 404), ("insufficient_resources", 503)],
)
async def test_a_job_that_failed_is_not_asked_for_again(
    cortex: Cortex, code: str, expected: int
) -> None:
    async with asyncio.TaskGroup() as group:
        asked = group.create_task(cortex.http.post("/v1/chat/completions", json=CHAT))
        [leased] = await cortex.acquire()
        await fail(cortex, leased.job.job_id, code)
    answer = asked.result()
    assert answer.status_code == expected
    assert answer.headers["x-should-retry"] == "false"
    assert answer.json()["error"]["code"] == code


async def test_what_is_not_there_and_what_is_not_json(cortex: Cortex) -> None:
    for path, method, code in (
        ("/v1/nothing", "GET", 404),
        ("/v1/chat/completions", "GET", 405),
    ):
        answer = await cortex.http.request(method, path)
        assert answer.status_code == code
        assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
        assert answer.headers["x-request-id"]
    answer = await cortex.http.post("/v1/chat/completions", content=b"{")
    assert answer.status_code == 400
    assert answer.json()["error"]["type"] == "invalid_request_error"
