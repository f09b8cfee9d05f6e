"""Batches by OpenAI's client, with a worker under the test's hand."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import openai
import pytest
from batch_tools import CHATS, answer_all, line, lines_of, start, until, upload
from cortex_tools import Cortex, eventually
from openai import AsyncOpenAI
from openai.types import Batch
from openai_tools import complete, cortex_by_hand, official_client


@pytest.fixture
async def cortex(tmp_path: Path) -> AsyncIterator[Cortex]:
    async with cortex_by_hand(tmp_path) as cortex:
        yield cortex


@pytest.fixture
async def client(cortex: Cortex) -> AsyncIterator[AsyncOpenAI]:
    async with official_client(cortex.server.http_url) as client:
        yield client


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
        ([line("a\0")], "invalid_custom_id", 1),
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


async def test_only_the_failed_lines_are_sent_again(cortex: Cortex, client: AsyncOpenAI) -> None:
    lines = [line("good"), line("fail-1"), line("hot", temperature=9), line("fail-2")]
    batch = await start(client, await upload(client, *lines), metadata={"run": "7"})
    await answer_all(cortex, 1)
    with pytest.raises(openai.BadRequestError) as early:
        await client.batches.create(
            input_file_id=batch.input_file_id,
            endpoint=CHATS,
            completion_window="24h",
            extra_body={"retry_failed_of": batch.id},
        )
    assert early.value.code == "batch_not_ended"
    await answer_all(cortex, 2)
    first = await until(client, batch, "completed")

    again = await start(client, first.input_file_id, extra_body={"retry_failed_of": batch.id})

    assert (again.metadata, again.model_extra) == (
        {"run": "7"},
        (again.model_extra or {}) | {"retry_of": batch.id},
    )
    text = (await client.files.content(again.input_file_id)).text
    assert [json.loads(each) for each in text.splitlines()] == lines[1:]
    await answer_all(cortex, 2)
    second = await until(client, again, "completed")
    assert set(await lines_of(client, second.error_file_id)) == {"fail-1", "hot", "fail-2"}
    assert second.output_file_id is None
    third = await client.post(
        f"/batches/{second.id}/retry", cast_to=Batch, body={"completion_window": "1h"}
    )
    assert third.completion_window == "1h"
    await answer_all(cortex, 2)
    await until(client, third, "completed")


async def test_what_cannot_be_sent_again_is_refused(cortex: Cortex, client: AsyncOpenAI) -> None:
    batch = await start(client, await upload(client, line("good")))
    await answer_all(cortex, 1)
    await until(client, batch, "completed")
    other = await upload(client, line("other"))
    for file_id, failed_id, code in [
        (batch.input_file_id, batch.id, "nothing_to_retry"),
        (other, batch.id, "invalid_value"),
        (other, "batch_none", "batch_not_found"),
    ]:
        with pytest.raises(openai.APIStatusError) as caught:
            await start(client, file_id, extra_body={"retry_failed_of": failed_id})
        assert (caught.value.code, caught.value.status_code in (400, 404)) == (code, True)
    assert len([each async for each in client.files.list(purpose="batch")]) == 2


async def test_counts_are_exact_while_it_runs(cortex: Cortex, client: AsyncOpenAI) -> None:
    names = ["good-1", "fail-1", "good-2", "fail-2", "good-3", "good-4"]
    lines = [*map(line, names), line("hot", temperature=9)]
    batch = await start(client, await upload(client, *lines))

    async def counts() -> tuple[int, int, int]:
        shown = (await client.batches.retrieve(batch.id)).request_counts
        assert shown is not None
        return shown.total, shown.completed, shown.failed

    async def is_refused() -> bool:
        return await counts() == (7, 0, 1)

    await eventually(is_refused, "the line that is refused is counted")
    seen = []
    for _ in names:
        await answer_all(cortex, 1)
        seen.append(await counts())
    failed = [fail for _, _, fail in seen]
    assert [total for total, _, _ in seen] == [7] * 6
    assert failed == sorted(failed)
    assert {completed + fail for _, completed, fail in seen} == {2, 3, 4, 5, 6, 7}
    assert seen[-1] == (7, 4, 3)
    await until(client, batch, "completed")
    assert await counts() == (7, 4, 3)


async def test_a_job_that_goes_on_again_is_not_counted_as_ended(
    cortex: Cortex, client: AsyncOpenAI
) -> None:
    batch = await start(client, await upload(client, line("fail-1"), line("wait")))

    async def counts() -> tuple[int, int]:
        shown = (await client.batches.retrieve(batch.id)).request_counts
        assert shown is not None
        return shown.completed, shown.failed

    await answer_all(cortex, 1)
    assert await counts() == (0, 1)
    [failed] = (await cortex.http.get("/api/v1/jobs?status=failed")).json()["jobs"]
    assert (await cortex.http.post(f"/api/v1/jobs/{failed['job_id']}/retry")).status_code == 200
    assert await counts() == (0, 0)
    for done in (1, 2):
        [leased] = await cortex.acquire()
        await complete(cortex, leased.job.job_id, "well", leased.attempt)
        assert await counts() == (done, 0)
    await until(client, batch, "completed")
    assert await counts() == (2, 0)
