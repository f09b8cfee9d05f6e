"""Files in parts by OpenAI's client; what does not become a file leaves nothing behind."""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import openai
import pytest
from batch_tools import line, objects_in, start, until
from cortex_tools import Cortex
from openai import AsyncOpenAI
from openai.types import Upload
from openai_tools import cortex_by_hand, official_client

from mnemos.cortex.batches.objects import FileObjects
from mnemos.cortex.batches.sweeping import FileSweeper
from mnemos.cortex.openai.uploads import MAX_PART_BODY_BYTES
from mnemos.engram.store import ObjectStore

TEXT = b"one\ntwo\n"
MD5 = hashlib.md5(TEXT, usedforsecurity=False).hexdigest()
DAY = 86_400.0


@pytest.fixture
async def cortex(tmp_path: Path) -> AsyncIterator[Cortex]:
    async with cortex_by_hand(tmp_path) as cortex:
        yield cortex


@pytest.fixture
async def client(cortex: Cortex) -> AsyncIterator[AsyncOpenAI]:
    async with official_client(cortex.server.http_url) as client:
        yield client


async def begin(client: AsyncOpenAI, size: int = len(TEXT)) -> Upload:
    return await client.uploads.create(
        bytes=size, filename="in.jsonl", mime_type="application/jsonl", purpose="batch"
    )


async def send(client: AsyncOpenAI, upload: Upload, data: bytes) -> str:
    return (await client.uploads.parts.create(upload.id, data=data)).id


async def sweep(cortex: Cortex, root: Path, ahead_seconds: float) -> None:
    """Sweep as one would who lives in the future."""
    store = cortex.server.store.batches
    files = FileObjects(ObjectStore.from_url((root / "engram").as_uri()))
    one = FileSweeper(store, files, now=lambda: time.time() + ahead_seconds)
    while await one.sweep():
        continue


async def test_the_official_client_sends_a_batch_in_parts(
    cortex: Cortex, client: AsyncOpenAI, tmp_path: Path
) -> None:
    text = "\n".join(json.dumps(line(f"line-{index}")) for index in range(20)).encode()
    upload = await client.uploads.upload_file_chunked(
        file=text,
        filename="in.jsonl",
        bytes=len(text),
        mime_type="application/jsonl",
        purpose="batch",
        part_size=1000,
        md5=hashlib.md5(text, usedforsecurity=False).hexdigest(),
    )
    assert (upload.status, upload.bytes) == ("completed", len(text))
    assert upload.file is not None
    assert (upload.file.bytes, upload.file.purpose) == (len(text), "batch")
    assert (await client.files.content(upload.file.id)).content == text
    assert objects_in(tmp_path) == [f"files/{upload.file.id}"], "no part stays behind"
    batch = await start(client, upload.file.id)
    assert (await until(client, batch, "in_progress")).request_counts is not None


async def test_parts_are_joined_in_the_order_that_is_said_and_once(
    client: AsyncOpenAI, tmp_path: Path
) -> None:
    upload = await begin(client)
    last = await send(client, upload, b"two\n")
    first = await send(client, upload, b"one\n")
    unused = await send(client, upload, b"two\n")
    async with asyncio.TaskGroup() as group:
        calls = [
            group.create_task(client.uploads.complete(upload.id, part_ids=[first, last], md5=MD5))
            for _ in range(3)
        ]
    files = {file.id for call in calls if (file := call.result().file)}
    assert len(files) == 1, "whoever asks again is told of the same file"
    again = await client.uploads.complete(upload.id, part_ids=[first, last])
    assert again.file is not None
    assert {again.file.id} == files
    assert (await client.files.content(again.file.id)).content == TEXT
    assert objects_in(tmp_path) == [f"files/{again.file.id}"]
    with pytest.raises(openai.BadRequestError) as other:
        await client.uploads.complete(upload.id, part_ids=[first, unused])
    with pytest.raises(openai.BadRequestError) as late:
        await send(client, upload, b"more")
    with pytest.raises(openai.BadRequestError) as cancelled:
        await client.uploads.cancel(upload.id)
    assert {other.value.code, late.value.code, cancelled.value.code} == {"upload_completed"}
    assert objects_in(tmp_path) == [f"files/{again.file.id}"]
    assert [file.id async for file in client.files.list()] == [again.file.id]


async def test_what_is_wrong_is_told_and_can_be_mended(client: AsyncOpenAI, tmp_path: Path) -> None:
    upload, other = await begin(client), await begin(client)
    one, two = await send(client, upload, b"one\n"), await send(client, upload, b"two\n")
    alien = await send(client, other, b"two\n")
    wrong = [
        ([one], None, "size_mismatch", "part_ids"),
        ([one, one], None, "invalid_value", "part_ids"),
        ([one, alien], None, "part_not_found", "part_ids"),
        ([one, "part_none"], None, "part_not_found", "part_ids"),
        ([], None, "invalid_value", "part_ids"),
        ([two, one], MD5, "checksum_mismatch", "md5"),
        ([one, two], "no", "invalid_value", "md5"),
    ]
    for part_ids, md5, code, param in wrong:
        with pytest.raises(openai.BadRequestError) as caught:
            await client.uploads.complete(upload.id, part_ids=part_ids, md5=md5 or openai.omit)
        assert (caught.value.code, caught.value.param) == (code, param), part_ids
    assert [file async for file in client.files.list()] == []
    assert len(objects_in(tmp_path)) == 3, "only the parts are kept"
    made = await client.uploads.complete(upload.id, part_ids=[one, two], md5=MD5.upper())
    assert made.status == "completed"
    for call in (client.uploads.cancel, lambda id_: client.uploads.parts.create(id_, data=b"x")):
        with pytest.raises(openai.NotFoundError) as missing:
            await call("upload_none")
        assert missing.value.code == "upload_not_found"


async def test_uploads_that_cannot_be_are_refused(cortex: Cortex) -> None:
    body = {"bytes": 8, "filename": "f", "mime_type": "text/plain", "purpose": "batch"}
    brief = {"anchor": "created_at", "seconds": 60}
    wrong: list[tuple[dict[str, object], str]] = [
        ({"bytes": 0}, "bytes"),
        ({"bytes": 200 * 1024 * 1024 + 1}, "bytes"),
        ({"bytes": "8"}, "bytes"),
        ({"purpose": "batch_output"}, "purpose"),
        ({"filename": ""}, "filename"),
        ({"expires_after": brief}, "expires_after.seconds"),
        ({"colour": "red"}, "colour"),
    ]
    for changes, param in wrong:
        answer = await cortex.http.post("/v1/uploads", json={**body, **changes})
        assert answer.status_code == 400
        assert answer.json()["error"]["param"] == param


async def test_parts_have_their_own_limit(cortex: Cortex, client: AsyncOpenAI) -> None:
    upload = await begin(client, 20 * 1024 * 1024)
    await send(client, upload, bytes(17 * 1024 * 1024))
    for data, code in ((b"", "invalid_value"), (bytes(24 * 1024 * 1024), "too_many_bytes")):
        with pytest.raises(openai.BadRequestError) as caught:
            await send(client, upload, data)
        assert caught.value.code == code
    answer = await cortex.http.post(
        f"/v1/uploads/{upload.id}/parts",
        content=bytes(MAX_PART_BODY_BYTES + 1),
        headers={"content-type": "multipart/form-data; boundary=x"},
    )
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "too_large")


async def test_nothing_stays_of_what_is_cancelled_expired_or_cut_off(
    cortex: Cortex, client: AsyncOpenAI, tmp_path: Path
) -> None:
    store = cortex.server.store.batches
    cancelled, expired = await begin(client), await begin(client)
    for upload in (cancelled, expired):
        await send(client, upload, b"one\n")
    assert (await client.uploads.cancel(cancelled.id)).status == "cancelled"
    assert (await client.uploads.cancel(cancelled.id)).status == "cancelled"
    with pytest.raises(openai.BadRequestError) as caught:
        await send(client, cancelled, b"two\n")
    assert caught.value.code == "upload_cancelled"
    assert [name.split("/")[1] for name in objects_in(tmp_path)] == [expired.id]
    # A process that was killed while it wrote has left these two.
    folder = tmp_path / "engram" / "mnemos-files"
    (folder / "uploads" / cancelled.id).mkdir(parents=True)
    (folder / "uploads" / cancelled.id / "part_late").write_bytes(b"late")
    kept = await client.files.create(file=("a", b"a"), purpose="evals")
    half = await store.get_file(kept.id, 0)
    assert half is not None
    cut_off = replace(half, file_id="file_half", whole=False, expires_at=time.time() + 1200)
    await store.add_file(cut_off)
    (folder / "files" / cut_off.file_id).write_bytes(b"half")
    with pytest.raises(openai.NotFoundError):
        await client.files.content(cut_off.file_id)
    await sweep(cortex, tmp_path, 3601)
    assert objects_in(tmp_path) == sorted([f"files/{kept.id}", f"uploads/{cancelled.id}/part_late"])
    with pytest.raises(openai.BadRequestError) as late:
        await client.uploads.complete(expired.id, part_ids=["part_any"])
    assert late.value.code == "upload_expired"
    await sweep(cortex, tmp_path, DAY)
    assert objects_in(tmp_path) == [f"files/{kept.id}"]
    for upload in (cancelled, expired):
        assert await store.get_upload(upload.id) is None
        assert await store.part_sizes(upload.id) == {}
