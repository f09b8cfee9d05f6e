"""References to ENGRAM in a job's rows, on a folder as storage."""

from __future__ import annotations

import asyncio
import base64
from pathlib import Path
from typing import Any

import pytest

from neuron.clients.engram_client import EngramClient
from neuron.errors import InvalidInputError, StorageUnavailableError
from neuron.models.job import JobInput
from neuron.services import input_references
from neuron.services.input_references import PARALLEL_READS, InputReferences

BUCKET = "mnemos-artifacts"
DATA = bytes(range(16))
SHAPE = {"dtype": "float32", "shape": [4]}


@pytest.fixture
async def client(tmp_path: Path) -> EngramClient:
    """ENGRAM with a.bin in two buckets, of which jobs may read the first."""
    client = EngramClient((tmp_path / "engram").as_uri(), "", "")
    for bucket in (BUCKET, "secrets"):
        await client.store.ensure_bucket(bucket)
        await client.store.put_bytes(bucket, "a.bin", DATA)
    return client


@pytest.fixture
def references(client: EngramClient) -> InputReferences:
    return InputReferences(client, [BUCKET])


def job(*rows: Any) -> JobInput:
    return JobInput(inputs=list(rows), parameters={"stream": False})


def ref(key: str = "a.bin", bucket: str = BUCKET, **more: Any) -> dict[str, Any]:
    return {"engram": f"{bucket}/{key}", **SHAPE, **more}


async def test_the_bytes_take_the_references_place(references: InputReferences) -> None:
    given = job({"x": ref(), "y": [1]}, "text", {"x": [2]}, {"x": ref(), "y": ref()})
    resolved = await references.resolve(given)
    tensor = {"b64": base64.b64encode(DATA).decode(), **SHAPE}
    assert resolved.inputs == [
        {"x": tensor, "y": [1]}, "text", {"x": [2]}, {"x": tensor, "y": tensor},
    ]  # fmt: skip
    assert resolved.parameters == given.parameters
    assert given.inputs is not None
    assert given.inputs[0]["x"] == ref(), "the job itself was changed"


@pytest.mark.parametrize(
    "given",
    [
        job({"x": [1, 2]}, "engram", {"x": {"b64": "", **SHAPE}}),
        job({"engram": f"{BUCKET}/a.bin"}),
        job([ref()], {"x": [ref()]}),
        JobInput(prompt="hello", parameters={}),
    ],
    ids=["no reference", "a row", "deeper than a row's tensors", "a prompt"],
)
async def test_what_is_no_reference_is_left_alone(
    references: InputReferences, given: JobInput
) -> None:
    assert await references.resolve(given) is given


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (ref("b.bin"), f"ENGRAM holds no {BUCKET}/b.bin"),
        (ref("../secrets/a.bin"), "has the part '..'"),
        (ref("/etc/passwd"), "it is absolute"),
        (ref(""), "it is empty"),
        (ref(bucket=".."), "bucket '..' is not allowed"),
        (ref(bucket="secrets"), "NEURON_INPUT_BUCKETS"),
        (ref(bucket="secrets"), f"from the buckets {BUCKET} only, not from secrets"),
        (ref(b64=""), "give engram or b64, not both"),
        ({"engram": 5}, 'engram is a text of the form "bucket/key"'),
    ],
)
async def test_a_reference_that_leads_nowhere_is_named(
    references: InputReferences, value: dict[str, Any], words: str
) -> None:
    with pytest.raises(InvalidInputError) as caught:
        await references.resolve(job({"x": ref()}, {"x": [1]}, {"x": value}))
    assert caught.value.message.startswith("inputs[2].x: ")
    assert words in caught.value.message


async def test_a_bucket_that_is_allowed_and_not_there_holds_nothing(client: EngramClient) -> None:
    references = InputReferences(client, ["elsewhere"])
    with pytest.raises(InvalidInputError, match=r"ENGRAM holds no elsewhere/a\.bin"):
        await references.resolve(job({"x": ref(bucket="elsewhere")}))


async def test_all_references_of_a_job_share_one_bound(
    references: InputReferences, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(input_references, "MAX_JOB_BYTES", 2 * len(DATA))
    await references.resolve(job({"x": ref()}, {"x": ref()}))
    with pytest.raises(InvalidInputError, match=r"^inputs\[.*more than"):
        await references.resolve(job(*[{"x": ref()}] * 3))


async def test_an_object_over_the_bound_is_not_read(
    client: EngramClient, references: InputReferences, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(input_references, "MAX_JOB_BYTES", len(DATA) - 1)
    monkeypatch.setattr(client.store, "get_bytes", None)
    with pytest.raises(InvalidInputError, match="has 16 bytes, more than the 15 that are left"):
        await references.resolve(job({"x": ref()}))


async def test_a_few_are_read_at_once() -> None:
    class Slow:
        reading = most = 0

        async def read_object(self, bucket: str, key: str, max_bytes: int) -> bytes:
            self.reading += 1
            self.most = max(self.most, self.reading)
            await asyncio.sleep(0)
            self.reading -= 1
            return key.encode()

    slow = Slow()
    resolved = await InputReferences(slow, [BUCKET]).resolve(
        job(*[{"x": ref(f"{place}")} for place in range(20)])
    )
    assert slow.most == PARALLEL_READS
    assert resolved.inputs is not None
    got = [base64.b64decode(row["x"]["b64"]) for row in resolved.inputs]
    assert got == [b"%d" % place for place in range(20)], "they were mixed up"


async def test_a_storage_out_of_reach_is_not_the_jobs_fault() -> None:
    client = EngramClient("127.0.0.1:1", "key", "secret")
    with pytest.raises(StorageUnavailableError):
        await InputReferences(client, [BUCKET]).resolve(job({"x": ref()}))
