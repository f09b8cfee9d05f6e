"""Answers that lie in ENGRAM, read through CORTEX: from a folder, and from an S3 server."""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import httpx2
import pytest
from cortex_tools import Cortex, running_cortex
from pydantic import SecretStr

from mnemos.cortex.big_results import ResultObjects, StoredResult, read_reference
from mnemos.cortex.errors import StartError
from mnemos.cortex.server import CortexServer
from mnemos.cortex.settings import CortexSettings
from mnemos.engram.store import ObjectStore
from mnemos.protocol.v1 import cortex_pb2 as pb
from neuron.clients.cortex_client import CortexClient
from neuron.services.rows.finished import LIMIT_BYTES, ROW_LIMIT_BYTES

ANSWER = json.dumps(["the answer, a piece of it", 0.5] * 200_000).encode()


class S3(Protocol):
    """What the tests need of the S3 server."""

    access_key: str
    secret_key: str

    @property
    def url(self) -> str: ...

    def store(self) -> ObjectStore: ...


@dataclass(frozen=True)
class Place:
    """A bucket, and the settings with which CORTEX finds it."""

    store: ObjectStore
    bucket: str
    settings: dict[str, Any]

    def reference(self, job_id: str, data: bytes = ANSWER, **changes: Any) -> pb.ResultReference:
        fields: dict[str, Any] = {
            "uri": f"engram://{self.bucket}/jobs/{job_id}/1/result.json",
            "size_bytes": len(data),
            "sha256": hashlib.sha256(data).hexdigest(),
        }
        return pb.ResultReference(**{**fields, **changes})

    async def put(self, job_id: str, data: bytes = ANSWER) -> None:
        await self.store.put_bytes(self.bucket, f"jobs/{job_id}/1/result.json", data)


@pytest.fixture(params=["file", "s3"])
async def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    bucket = f"results-{uuid.uuid4().hex[:12]}"
    if request.param == "s3":
        server: S3 = request.getfixturevalue("s3_server")
        store = server.store()
        settings: dict[str, Any] = {
            "engram_url": "s3://",
            "engram_endpoint": server.url,
            "engram_access_key": server.access_key,
            "engram_secret_key": SecretStr(server.secret_key),
        }
    else:
        url = (tmp_path / "engram").as_uri()
        store, settings = ObjectStore.from_url(url), {"engram_url": url}
    await store.ensure_bucket(bucket)
    return Place(store, bucket, {**settings, "result_bucket": bucket})


@pytest.fixture
async def cortex(settings: CortexSettings, place: Place) -> AsyncIterator[Cortex]:
    async with running_cortex(settings.model_copy(update=place.settings)) as cortex:
        yield cortex


async def complete(cortex: Cortex, job_id: str, reference: pb.ResultReference) -> None:
    output = pb.JobOutput(metadata_json="{}", result_reference=reference)
    result = pb.JobResult(job_id=job_id, attempt=1, status=pb.JOB_STATUS_COMPLETED, output=output)
    assert await cortex.report(result) == pb.VERDICT_ACCEPTED


async def get(cortex: Cortex, job_id: str) -> httpx2.Response:
    return await cortex.http.get(f"/api/v1/jobs/{job_id}/result")


async def test_a_big_answer_comes_as_if_it_were_in_the_database(
    cortex: Cortex, place: Place
) -> None:
    job_id = await cortex.hold()
    await place.put(job_id)
    await complete(cortex, job_id, place.reference(job_id))

    answer = await get(cortex, job_id)

    assert answer.status_code == 200
    assert answer.content == ANSWER
    assert answer.headers["mnemos-result"] == "stored"
    assert answer.headers["content-type"] == "application/json"
    shown = (await cortex.job(job_id))["result"]["result_reference"]
    assert shown == {
        "engram": f"{place.bucket}/jobs/{job_id}/1/result.json",
        "size_bytes": len(ANSWER),
        "sha256": hashlib.sha256(ANSWER).hexdigest(),
    }


async def test_an_answer_of_another_size_is_refused(cortex: Cortex, place: Place) -> None:
    job_id = await cortex.hold()
    await place.put(job_id, ANSWER[:-1])
    await complete(cortex, job_id, place.reference(job_id))

    answer = await get(cortex, job_id)

    assert answer.status_code == 500
    assert answer.json()["error"]["code"] == "result_damaged"


async def test_an_answer_that_was_changed_never_arrives_whole(cortex: Cortex, place: Place) -> None:
    job_id = await cortex.hold()
    await place.put(job_id, ANSWER.replace(b"0.5", b"0.6"))
    await complete(cortex, job_id, place.reference(job_id))

    with pytest.raises(httpx2.RemoteProtocolError):
        await get(cortex, job_id)


async def test_an_answer_that_is_gone_is_said_to_be(cortex: Cortex, place: Place) -> None:
    job_id = await cortex.hold()
    await complete(cortex, job_id, place.reference(job_id))

    answer = await get(cortex, job_id)

    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "result_not_found"


async def test_what_a_job_did_not_write_is_not_read_for_it(cortex: Cortex, place: Place) -> None:
    """A model's own answer may look like a reference; it is then just that."""
    job_id = await cortex.hold()
    await place.put("job_secret")
    other = place.reference("job_secret")
    forged = {
        "result_reference": {
            "engram": other.uri.removeprefix("engram://"),
            "size_bytes": other.size_bytes,
            "sha256": other.sha256,
        }
    }
    assert await cortex.complete(job_id, answer=forged) == pb.VERDICT_ACCEPTED

    answer = await get(cortex, job_id)

    assert answer.json() == forged
    assert answer.headers["mnemos-result"] == "inline"


async def test_what_lies_in_another_bucket_is_not_read(cortex: Cortex, place: Place) -> None:
    job_id = await cortex.hold()
    uri = f"engram://mnemos-models/jobs/{job_id}/1/result.json"
    await complete(cortex, job_id, place.reference(job_id, uri=uri))

    answer = await get(cortex, job_id)

    assert answer.headers["mnemos-result"] == "reference"
    assert answer.json()["result_reference"]["engram"] == uri.removeprefix("engram://")


async def test_a_small_answer_comes_the_same_way(cortex: Cortex) -> None:
    job_id = await cortex.hold()
    waiting = await get(cortex, job_id)
    assert await cortex.complete(job_id, answer={"a": [1, None]}) == pb.VERDICT_ACCEPTED

    answer = await get(cortex, job_id)

    assert waiting.status_code == 409
    assert "acquired" in waiting.json()["error"]["message"]
    assert answer.json() == {"a": [1, None]}
    assert answer.headers["mnemos-result"] == "inline"
    assert (await get(cortex, "job_nobody")).status_code == 404


async def test_a_job_that_failed_has_none(cortex: Cortex) -> None:
    job_id = await cortex.hold(retry_config={"max_retries": 0})
    result = pb.JobResult(job_id=job_id, attempt=1, status=pb.JOB_STATUS_FAILED, error="no")
    await cortex.report(result)

    answer = await get(cortex, job_id)

    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "result_not_found"


async def test_all_that_attempts_at_a_job_stored_can_be_removed(place: Place) -> None:
    objects = ResultObjects(place.store, place.bucket)
    for key in (
        "jobs/job_1/1/result.json",
        "jobs/job_1/3/result.json",
        "jobs/job_10/1/result.json",
    ):
        await place.store.put_bytes(place.bucket, key, b"[]")

    assert await objects.delete_job("job_1") == 2
    assert await objects.delete_job("job_1") == 0

    left = await place.store.list(place.bucket)
    assert [info.key for info in left] == ["jobs/job_10/1/result.json"]


@pytest.mark.parametrize("place", ["file"], indirect=True)
async def test_rows_as_large_as_may_be_reach_the_next_attempt(cortex: Cortex) -> None:
    """In one message, which a worker's client takes."""
    rows = {index: json.dumps({"result": "x" * ROW_LIMIT_BYTES}) for index in range(3)}
    assert 2 * ROW_LIMIT_BYTES < LIMIT_BYTES < 4 * ROW_LIMIT_BYTES
    job_id = await cortex.hold(
        job_type="batch_inference", input={"inputs": list("abcd"), "parameters": {}}
    )
    for index, row in rows.items():
        chunk = pb.StreamChunk(
            job_id=job_id,
            attempt=1,
            sequence=index,
            row=pb.RowResult(index=index, result_json=row),
        )
        call = cortex.stub.StreamResult()
        await call.write(pb.StreamResultRequest(worker_id=cortex.worker_id, chunks=[chunk]))
        [ack] = (await call.read()).acks
        assert ack.next_sequence == index + 1
        await call.done_writing()
    released = pb.ReleasedJob(job_id=job_id, attempt=1, reason="drain")
    request = pb.ReleaseJobsRequest(worker_id=cortex.worker_id, jobs=[released])
    await cortex.stub.ReleaseJobs(request)

    client = CortexClient(cortex.server.grpc_address)
    client.instance_id = "one"
    await client.connect()
    try:
        acquired = await client.acquire_jobs(cortex.worker_id, 1, wait_seconds=5)
    finally:
        await client.close()

    [leased] = acquired.jobs
    assert leased.resume is not None
    assert [len(row.result["result"]) for row in leased.resume.rows] == [ROW_LIMIT_BYTES] * 3


async def test_without_a_storage_readers_are_told_where_the_answer_is(
    settings: CortexSettings, place: Place
) -> None:
    async with running_cortex(settings) as cortex:
        job_id = await cortex.hold()
        await complete(cortex, job_id, place.reference(job_id))

        answer = await get(cortex, job_id)

    assert answer.status_code == 200
    assert answer.headers["mnemos-result"] == "reference"
    assert answer.json()["result_reference"]["engram"].startswith(place.bucket)


async def test_a_storage_out_of_reach_is_unavailable(
    settings: CortexSettings, place: Place
) -> None:
    away = {"engram_url": "s3://", "engram_endpoint": "http://127.0.0.1:9"}
    away |= {"result_bucket": place.bucket}
    async with running_cortex(settings.model_copy(update=away)) as cortex:
        job_id = await cortex.hold()
        await complete(cortex, job_id, place.reference(job_id))

        answer = await get(cortex, job_id)

    assert answer.status_code == 503
    assert answer.json()["error"]["code"] == "storage_unavailable"


async def test_a_url_that_names_no_storage_stops_the_start(settings: CortexSettings) -> None:
    server = CortexServer(settings.model_copy(update={"engram_url": "ftp://here"}))
    with pytest.raises(StartError, match="CORTEX_ENGRAM_URL"):
        await server.__aenter__()


@pytest.mark.parametrize(
    "key",
    [
        "jobs/job_2/1/result.json",
        "jobs/job_1/../job_2/1/result.json",
        "jobs/job_1/1/other.json",
        "jobs/job_1/x/result.json",
        "jobs/job_1/1/result.json/more",
        "models/job_1/1/result.json",
    ],
)
def test_only_a_job_s_own_object_is_its_answer(key: str) -> None:
    def told(name: str) -> str:
        where = {"engram": f"bucket/{name}", "size_bytes": 2, "sha256": "ab"}
        return json.dumps({"result_reference": where})

    own = "jobs/job_1/1/result.json"
    assert read_reference(told(own), "job_1") == StoredResult("bucket", own, 2, "ab")
    assert read_reference(told(key), "job_1") is None
