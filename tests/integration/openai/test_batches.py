"""Batches by OpenAI's client, with a worker under the test's hand."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Literal

import openai
import pytest
from cortex_tools import Cortex, eventually
from openai import AsyncOpenAI
from openai.types import Batch
from openai_tools import complete, cortex_by_hand, fail, official_client

CHATS: Literal["/v1/chat/completions"] = "/v1/chat/completions"


@pytest.fixture
async def cortex(tmp_path: Path) -> AsyncIterator[Cortex]:
    async with cortex_by_hand(tmp_path) as cortex:
        yield cortex


@pytest.fixture
async def client(cortex: Cortex) -> AsyncIterator[AsyncOpenAI]:
    async with official_client(cortex.server.http_url) as client:
        yield client


def line(custom_id: str, **changes: Any) -> dict[str, Any]:
    body = {"model": "tiny", "messages": [{"role": "user", "content": custom_id}]}
    return {"custom_id": custom_id, "method": "POST", "url": CHATS, "body": body | changes}


async def upload(client: AsyncOpenAI, *lines: dict[str, Any] | str) -> str:
    text = "\n".join(each if isinstance(each, str) else json.dumps(each) for each in lines)
    file = await client.files.create(file=("in.jsonl", text.encode()), purpose="batch")
    assert file.bytes == len(text.encode())
    return file.id


async def start(client: AsyncOpenAI, file_id: str, **more: Any) -> Batch:
    return await client.batches.create(
        input_file_id=file_id, endpoint=CHATS, completion_window="24h", **more
    )


async def until(client: AsyncOpenAI, batch: Batch, *states: str) -> Batch:
    known = batch

    async def has_come() -> bool:
        nonlocal known
        known = await client.batches.retrieve(batch.id)
        return known.status in states

    await eventually(has_come, f"the batch is {states}", seconds=30)
    return known


async def lines_of(client: AsyncOpenAI, file_id: str | None) -> dict[str, dict[str, Any]]:
    if file_id is None:
        return {}
    told = [json.loads(each) for each in (await client.files.content(file_id)).text.splitlines()]
    assert len({each["custom_id"] for each in told}) == len(told), "a line is told twice"
    return {each["custom_id"]: each for each in told}


async def answer_all(cortex: Cortex, count: int) -> None:
    """Answer jobs as a worker would; those that ask for failure fail."""
    while count:
        leased = await cortex.acquire(max_jobs=min(8, count), wait=10)
        assert leased, f"{count} more jobs were to come"
        for one in leased:
            asked = one.job.input.messages[0].content
            if asked.startswith("fail"):
                await fail(cortex, one.job.job_id, "invalid_input", one.attempt)
            else:
                await complete(cortex, one.job.job_id, f"re: {asked}", one.attempt)
        count -= len(leased)


async def test_every_line_is_answered_or_told_why_not(cortex: Cortex, client: AsyncOpenAI) -> None:
    good = [line(f"good-{index}") for index in range(10)]
    bad = [line("hot", temperature=9), line("nobody", model="nobody"), line("s", stream=True)]
    file_id = await upload(client, *good, *bad, line("fail-1"))
    batch = await start(client, file_id, metadata={"purpose": "test"})
    assert (batch.metadata, batch.completion_window) == ({"purpose": "test"}, "24h")
    await answer_all(cortex, 11)

    done = await until(client, batch, "completed")

    assert done.request_counts is not None
    assert done.request_counts.model_dump() == {"total": 14, "completed": 10, "failed": 4}
    answers = await lines_of(client, done.output_file_id)
    assert set(answers) == {f"good-{index}" for index in range(10)}
    for custom_id, told in answers.items():
        assert told["error"] is None
        assert told["response"]["status_code"] == 200
        body = told["response"]["body"]
        assert body["object"] == "chat.completion"
        assert body["choices"][0]["message"]["content"] == f"re: {custom_id}"
    errors = await lines_of(client, done.error_file_id)
    statuses = {name: told["response"]["status_code"] for name, told in errors.items()}
    assert statuses == {"hot": 400, "nobody": 404, "s": 400, "fail-1": 400}
    assert errors["hot"]["response"]["body"]["error"]["param"] == "temperature"
    assert done.completed_at
    listed = [each.id async for each in client.batches.list(limit=1)]
    assert listed == [batch.id]


@pytest.mark.parametrize(
    ("lines", "code", "number"),
    [
        (["{"], "invalid_json_line", 1),
        ([line("a"), line("b"), line("a")], "duplicate_custom_id", 3),
        ([line("a"), line("b") | {"url": "/v1/embeddings"}], "mismatched_url", 2),
        ([line("a") | {"method": "GET"}], "invalid_method", 1),
        ([{"method": "POST", "url": CHATS, "body": {}}], "invalid_custom_id", 1),
        ([line("a") | {"body": "text"}], "missing_body", 1),
        (["", " "], "empty_file", None),
    ],
)
async def test_a_file_that_is_no_batch_is_refused_whole(
    cortex: Cortex, client: AsyncOpenAI, lines: list[Any], code: str, number: int | None
) -> None:
    batch = await start(client, await upload(client, *lines))
    failed = await until(client, batch, "failed", "completed")
    assert failed.status == "failed"
    assert failed.errors is not None
    assert failed.errors.data is not None
    [error] = failed.errors.data
    assert (error.code, error.line) == (code, number)
    assert (await cortex.http.get("/api/v1/jobs")).json()["jobs"] == []


async def test_answers_can_be_read_before_the_end(cortex: Cortex, client: AsyncOpenAI) -> None:
    batch = await start(client, await upload(client, line("one"), line("two")))
    running = await until(client, batch, "in_progress")
    assert running.output_file_id is not None
    [first] = await cortex.acquire()
    await complete(cortex, first.job.job_id, "early")
    assert len(await lines_of(client, running.output_file_id)) == 1
    with pytest.raises(openai.BadRequestError, match="has not ended"):
        await client.files.delete(running.output_file_id)
    with pytest.raises(openai.BadRequestError, match="reads this file"):
        await client.files.delete(running.input_file_id)
    await answer_all(cortex, 1)
    done = await until(client, batch, "completed")
    assert done.output_file_id == running.output_file_id
    assert len(await lines_of(client, done.output_file_id)) == 2
    assert (await client.files.delete(done.input_file_id)).deleted


async def test_what_is_cancelled_keeps_what_is_answered(
    cortex: Cortex, client: AsyncOpenAI
) -> None:
    names = [f"line-{index}" for index in range(6)]
    batch = await start(client, await upload(client, *map(line, names)))
    await until(client, batch, "in_progress")
    await answer_all(cortex, 2)
    assert (await client.batches.cancel(batch.id)).status == "cancelling"
    done = await until(client, batch, "cancelled")
    answers = await lines_of(client, done.output_file_id)
    errors = await lines_of(client, done.error_file_id)
    assert (len(answers), set(answers) | set(errors)) == (2, set(names))
    assert {told["error"]["code"] for told in errors.values()} == {"batch_cancelled"}
    assert done.request_counts is not None
    assert done.request_counts.model_dump() == {"total": 6, "completed": 2, "failed": 4}
    with pytest.raises(openai.BadRequestError, match="has ended"):
        await client.batches.cancel(batch.id)


async def test_what_takes_too_long_keeps_what_is_answered(
    cortex: Cortex, client: AsyncOpenAI
) -> None:
    batch = await client.batches.create(
        input_file_id=await upload(client, line("one"), line("two")),
        endpoint=CHATS,
        completion_window="2s",  # type: ignore[arg-type]  # OpenAI itself has 24h alone
    )
    await answer_all(cortex, 1)
    done = await until(client, batch, "expired", "completed")
    assert (done.status, done.completion_window) == ("expired", "2s")
    answers = await lines_of(client, done.output_file_id)
    errors = await lines_of(client, done.error_file_id)
    assert set(answers) | set(errors) == {"one", "two"}
    assert [told["error"]["code"] for told in errors.values()] == ["batch_expired"]


async def test_files_are_listed_read_and_deleted(client: AsyncOpenAI) -> None:
    ids = [await upload(client, line(str(index))) for index in range(3)]
    assert [file.id async for file in client.files.list(limit=2)] == ids[::-1]
    assert [file.id async for file in client.files.list(order="asc")] == ids
    text = (await client.files.content(ids[0])).text
    assert json.loads(text)["custom_id"] == "0"
    assert (await client.files.delete(ids[0])).deleted
    for call in (client.files.retrieve, client.files.content, client.files.delete):
        with pytest.raises(openai.NotFoundError) as caught:
            await call(ids[0])
        assert caught.value.code == "file_not_found"
    with pytest.raises(openai.NotFoundError):
        await client.batches.retrieve("batch_none")
    with pytest.raises(openai.BadRequestError) as missing:
        await start(client, ids[0])
    assert missing.value.param == "input_file_id"
