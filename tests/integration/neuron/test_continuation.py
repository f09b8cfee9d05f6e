"""What an attempt leaves for the next one, and how that goes on."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import pytest
from fake_cortex import FakeCortex, FakeJob
from fake_engine import FakeEngines

from mnemos.protocol.v1 import cortex_pb2 as pb
from neuron.worker import NEURONWorker

StartWorker = Callable[..., AbstractAsyncContextManager[NEURONWorker]]


def words(count: int) -> str:
    return "".join(f"t{index} " for index in range(count))


def metadata(job: FakeJob) -> dict[str, Any]:
    assert job.result is not None
    told: dict[str, Any] = json.loads(job.result.output.metadata_json)
    return told


@pytest.fixture
async def cortex(cortex: FakeCortex) -> FakeCortex:
    """One whose leases are soon known to be lost."""
    cortex.lease_seconds = 0.6
    return cortex


async def test_the_next_attempt_brings_only_what_is_new(
    cortex: FakeCortex, start_worker: StartWorker, engines: FakeEngines
) -> None:
    async with start_worker():
        job = cortex.submit("job_1", "flow", stream=True)
        await cortex.until(lambda: len(job.chunks) > 3)
        cortex.expire("job_1")
        await cortex.until(lambda: job.attempt == 2 and len(job.chunks) > 3)
        cortex.expire("job_1")
        await cortex.until(lambda: job.attempt == 3)
        engines.go.set()
        await cortex.until(lambda: job.state == "done")

    told = metadata(job)
    count = told["tokens_generated"]
    assert job.token_ids == list(range(count))
    assert job.text == words(count)
    assert job.result is not None
    assert json.loads(job.result.output.result_json) == words(count)
    assert told["resumed_tokens"] == sum(len(chunk.token_ids) for chunk in job.earlier) > 0


async def test_an_answer_that_nobody_reads_along_is_kept_every_few_seconds(
    cortex: FakeCortex, start_worker: StartWorker, engines: FakeEngines
) -> None:
    async with start_worker():
        job = cortex.submit("job_1", "flow")
        await cortex.until(lambda: len(job.chunks) == 2)
        assert all(len(chunk.token_ids) > 5 for chunk in job.chunks), "more than one at a time"
        assert "streaming" not in job.statuses
        cortex.expire("job_1")
        await cortex.until(lambda: job.attempt == 2)
        engines.go.set()
        await cortex.until(lambda: job.state == "done")

    assert metadata(job)["resumed_tokens"] > 0
    assert job.text.startswith(words(10))
    assert job.token_ids == list(range(len(job.token_ids)))


async def test_once_some_of_an_answer_is_kept_all_of_it_is(
    cortex: FakeCortex, start_worker: StartWorker, engines: FakeEngines
) -> None:
    async with start_worker():
        job = cortex.submit("job_1", "flow")
        await cortex.until(lambda: len(job.chunks) == 1)
        engines.go.set()
        await cortex.until(lambda: job.state == "done")

    assert job.text == words(metadata(job)["tokens_generated"])
    assert job.chunks[-1].is_final


async def test_a_short_rest_of_an_answer_is_kept_too(
    cortex: FakeCortex, start_worker: StartWorker
) -> None:
    async with start_worker():
        job = cortex.submit("job_1", "tokens 5")
        job.earlier.append(pb.StreamChunk(content=words(2), token_ids=[0, 1]))
        await cortex.until(lambda: job.state == "done")

    assert (job.text, job.token_ids) == (words(5), [0, 1, 2, 3, 4])
    assert metadata(job)["resumed_tokens"] == 2


async def test_a_short_answer_that_nobody_reads_along_sends_no_tokens(
    cortex: FakeCortex, start_worker: StartWorker
) -> None:
    async with start_worker():
        job = cortex.submit("job_1", "tokens 50")
        await cortex.until(lambda: job.state == "done")

    assert job.chunks == []
    assert cortex.token_streams == 0


@pytest.mark.parametrize("stream", [True, False])
async def test_a_job_is_handed_back_with_the_tokens_that_were_not_due(
    cortex: FakeCortex, start_worker: StartWorker, stream: bool
) -> None:
    async with start_worker(shutdown_timeout=300) as worker:
        job = cortex.submit("job_1", "hang", stream=stream)
        await cortex.until(lambda: ("streaming" if stream else "executing") in job.statuses)
        worker.on_signal(signal.SIGTERM)
        worker.on_signal(signal.SIGTERM)
        await worker.shutdown()

    assert len(job.released) == 1
    assert (job.text, job.token_ids) == ("x", [0])
    assert ("streaming" in job.statuses) == stream


async def test_what_an_engine_brought_before_it_died_is_kept(
    cortex: FakeCortex, start_worker: StartWorker
) -> None:
    async with start_worker():
        job = cortex.submit("job_1", "die 3")
        await cortex.until(lambda: job.state == "done")

    assert job.result is not None
    assert job.result.error_details.code == pb.ERROR_CODE_ENGINE_CRASHED
    assert (job.text, job.token_ids) == (words(3), [0, 1, 2])


async def test_a_guided_answer_keeps_nothing_for_it_cannot_be_taken_up(
    cortex: FakeCortex, start_worker: StartWorker
) -> None:
    async with start_worker():
        job = cortex.submit("job_1", "die 3", parameters={"regex": "[a-z]+"})
        await cortex.until(lambda: job.state == "done")

    assert job.chunks == []


async def test_what_a_stopped_attempt_had_got_to_includes_the_attempts_before(
    cortex: FakeCortex, start_worker: StartWorker
) -> None:
    async with start_worker():
        job = cortex.submit("job_1", "hang")
        job.earlier.append(pb.StreamChunk(content="before ", token_ids=[7, 8]))
        await cortex.until(lambda: "executing" in job.statuses)
        job.cancel_asked = True
        await cortex.until(lambda: job.state == "done")

    assert job.result is not None
    assert json.loads(job.result.output.result_json) == "before x"
    assert metadata(job)["tokens_generated"] == 3
