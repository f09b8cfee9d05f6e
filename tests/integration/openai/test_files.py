"""Files that go when their time is over, and whose files and batches they are."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from pathlib import Path

import openai
import pytest
from batch_tools import CHATS, answer_all, line, objects_in, start, until, upload
from cortex_tools import Cortex
from openai import AsyncOpenAI
from openai_tools import complete, cortex_by_hand, official_client

from mnemos.cortex.batches.objects import FileObjects
from mnemos.cortex.batches.sweeping import FileSweeper
from mnemos.engram.store import ObjectStore

ADMIN_KEY = "mk-test-" + "0" * 32
HOUR = 3600


@pytest.fixture
async def cortex(tmp_path: Path) -> AsyncIterator[Cortex]:
    async with cortex_by_hand(tmp_path) as cortex:
        yield cortex


@pytest.fixture
async def client(cortex: Cortex) -> AsyncIterator[AsyncOpenAI]:
    async with official_client(cortex.server.http_url) as client:
        yield client


def sweeper(cortex: Cortex, root: Path, ahead_seconds: float) -> FileSweeper:
    """One who lives in the future."""
    files = FileObjects(ObjectStore.from_url((root / "engram").as_uri()))
    store = cortex.server.store.batches
    return FileSweeper(store, files, now=lambda: time.time() + ahead_seconds)


async def test_files_go_in_time_but_not_under_a_batch(
    cortex: Cortex, client: AsyncOpenAI, tmp_path: Path
) -> None:
    hour = {"anchor": "created_at", "seconds": HOUR}
    brief = await client.files.create(
        file=("a", b"a"), purpose="evals", expires_after={"anchor": "created_at", "seconds": HOUR}
    )
    lasting = await client.files.create(file=("b", b"b"), purpose="evals")
    assert (brief.expires_at, lasting.expires_at) == (brief.created_at + HOUR, None)
    file_id = await upload(client, line("one"), line("fail-1"))
    assert (await client.files.retrieve(file_id)).expires_at is not None, "30 days, as OpenAI's"
    batch = await start(client, file_id, output_expires_after=hour)
    await until(client, batch, "in_progress")

    assert await sweeper(cortex, tmp_path, HOUR).sweep() == 0, "a minute's grace"
    assert await sweeper(cortex, tmp_path, HOUR + 90).sweep() == 1
    assert await sweeper(cortex, tmp_path, 60 * 86_400).sweep() == 0, "the batch reads its file"
    assert [file.id async for file in client.files.list()] == [file_id, lasting.id]
    with pytest.raises(openai.NotFoundError):
        await client.files.content(brief.id)
    await answer_all(cortex, 2)
    done = await until(client, batch, "completed")
    assert done.output_file_id is not None
    output = await client.files.retrieve(done.output_file_id)
    assert output.expires_at == output.created_at + HOUR
    assert await sweeper(cortex, tmp_path, 60 * 86_400).sweep() == 3
    assert objects_in(tmp_path) == [f"files/{lasting.id}"]
    with pytest.raises(openai.BadRequestError) as gone:
        await start(client, file_id, extra_body={"retry_failed_of": batch.id})
    assert gone.value.code == "file_not_found"
    assert objects_in(tmp_path) == [f"files/{lasting.id}"], "nor is half a file kept"


async def test_half_an_expiry_is_refused(cortex: Cortex) -> None:
    for field, value in (("anchor", "created_at"), ("seconds", "3600"), ("seconds", "1")):
        answer = await cortex.http.post(
            "/v1/files",
            data={"purpose": "evals", f"expires_after[{field}]": value},
            files={"file": ("a", b"a")},
        )
        assert answer.status_code == 400, answer.text
        assert answer.json()["error"]["type"] == "invalid_request_error"


async def test_keys_see_their_own_alone(tmp_path: Path) -> None:
    async with cortex_by_hand(tmp_path, admin_key=ADMIN_KEY) as cortex:
        cortex.http.headers["authorization"] = f"Bearer {ADMIN_KEY}"
        secrets = []
        for name in ("one", "two"):
            made = await cortex.http.post("/api/v1/keys", json={"name": name})
            assert made.status_code == 201, made.text
            secrets.append(made.json()["secret"])
        url = cortex.server.http_url
        async with (
            official_client(url, api_key=secrets[0]) as one,
            official_client(url, api_key=secrets[1]) as two,
            official_client(url, api_key=ADMIN_KEY) as admin,
        ):
            file_id = await upload(one, line("one"), line("fail-1"))
            batch = await start(one, file_id)
            begun = await one.uploads.create(
                bytes=1, filename="f", mime_type="text/plain", purpose="batch"
            )
            for call in (
                two.files.retrieve(file_id),
                two.files.content(file_id),
                two.files.delete(file_id),
                two.batches.retrieve(batch.id),
                two.batches.cancel(batch.id),
                two.uploads.cancel(begun.id),
                two.uploads.parts.create(begun.id, data=b"x"),
                two.post(f"/batches/{batch.id}/retry", cast_to=object),
            ):
                with pytest.raises(openai.NotFoundError):
                    await call
            with pytest.raises(openai.BadRequestError) as caught:
                await two.batches.create(
                    input_file_id=file_id, endpoint=CHATS, completion_window="24h"
                )
            assert caught.value.code == "file_not_found"
            assert [each.id async for each in two.batches.list()] == []
            assert [each.id async for each in two.files.list()] == []
            assert [each.id async for each in admin.batches.list()] == [batch.id]
            leased = await cortex.acquire(max_jobs=2)
            jobs = (await cortex.http.get("/api/v1/jobs")).json()["jobs"]
            assert len(leased) == len(jobs) == 2
            key_id = (await cortex.server.store.get_job(jobs[0]["job_id"])).key_id
            assert key_id.startswith("key_"), "the lines' jobs are the key's"
            one_key = {"authorization": f"Bearer {secrets[0]}"}
            shown = await cortex.http.get("/api/v1/webhooks/deliveries", headers=one_key)
            assert shown.status_code == 403


async def test_a_batch_waits_for_room_where_its_key_has_a_limit(tmp_path: Path) -> None:
    async with cortex_by_hand(tmp_path, admin_key=ADMIN_KEY) as cortex:
        cortex.http.headers["authorization"] = f"Bearer {ADMIN_KEY}"
        limited = {"name": "small", "max_waiting_jobs": 2}
        secret = (await cortex.http.post("/api/v1/keys", json=limited)).json()["secret"]
        async with official_client(cortex.server.http_url, api_key=secret) as client:
            batch = await start(client, await upload(client, *map(line, "abcde")))
            for _ in range(5):
                pending = (await cortex.http.get("/api/v1/jobs?status=pending")).json()["jobs"]
                assert len(pending) <= 2
                await answer_all(cortex, 1)
            done = await until(client, batch, "completed")
            assert done.request_counts is not None
            assert done.request_counts.model_dump() == {"total": 5, "completed": 5, "failed": 0}
            stopped = await start(client, await upload(client, *map(line, "abcde")))
            [leased] = await cortex.acquire()
            await client.batches.cancel(stopped.id)
            await complete(cortex, leased.job.job_id, "last")
            await until(client, stopped, "cancelled")
