"""Jobs of many rows through a worker: each row has a fate of its own, none is lost or repeated."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

from fake_cortex import FakeCortex, FakeJob
from fake_engine import FakeEngines

from mnemos.protocol.v1 import cortex_pb2 as pb
from neuron.worker import NEURONWorker

StartWorker = Callable[..., AbstractAsyncContextManager[NEURONWorker]]


def rows_of(job: FakeJob) -> list[dict[str, Any]]:
    assert job.result is not None
    rows: list[dict[str, Any]] = json.loads(job.result.output.result_json)
    return rows


async def test_every_row_brings_a_result_or_an_error_of_its_own(
    cortex: FakeCortex, start_worker: StartWorker
) -> None:
    inputs = ["tokens 1", {"id": "b", "prompt": "tokens 2"}, "fail"]
    async with start_worker():
        job = cortex.submit("job_1", inputs=inputs, job_type=pb.JOB_TYPE_BATCH_INFERENCE)
        await cortex.until(lambda: job.state == "done")

    assert job.result is not None
    assert job.result.status == pb.JOB_STATUS_COMPLETED
    first, second, third = rows_of(job)
    assert first["result"] == "t0 "
    assert (second["id"], second["result"]) == ("b", "t0 t1 ")
    assert third["error"]["code"] == "internal"
    assert sorted(job.rows) == [0, 1, 2], "every row reached CORTEX before the result"


async def test_rows_that_reached_cortex_are_not_run_again(
    cortex: FakeCortex, start_worker: StartWorker, engines: FakeEngines
) -> None:
    inputs = ["tokens 1", "tokens 2", "wait"]
    async with start_worker(shutdown_timeout=0):
        job = cortex.submit("job_1", inputs=inputs, job_type=pb.JOB_TYPE_BATCH_INFERENCE)
        await cortex.until(lambda: len(job.rows) == 2)
    assert job.state == "pending", "a drained worker hands the job back"
    engines.go.set()
    async with start_worker():
        await cortex.until(lambda: job.state == "done")

    assert [row["result"] for row in rows_of(job)] == ["t0 ", "t0 t1 ", "t0 "]
    assert job.result is not None
    assert json.loads(job.result.output.metadata_json)["rows_resumed"] == 2
    assert [len(engine.asked) for engine in engines.made] == [3, 1]


async def test_a_cancelled_batch_keeps_the_rows_that_were_done(
    cortex: FakeCortex, start_worker: StartWorker
) -> None:
    async with start_worker():
        job = cortex.submit(
            "job_1", inputs=["tokens 1", "hang"], job_type=pb.JOB_TYPE_BATCH_INFERENCE
        )
        await cortex.until(lambda: len(job.rows) == 1)
        job.cancel_asked = True
        cortex.act(pb.ACTION_KIND_CANCEL_JOBS, jobs=[pb.AttemptRef(job_id="job_1", attempt=1)])
        await cortex.until(lambda: job.state == "done")

    assert job.result is not None
    assert job.result.status == pb.JOB_STATUS_CANCELLED
    first, second = rows_of(job)
    assert first["result"] == "t0 "
    assert second is None


async def test_an_evaluation_scores_its_rows(cortex: FakeCortex, start_worker: StartWorker) -> None:
    inputs = [
        {"prompt": "tokens 2", "reference": "T0, t1!"},
        {"prompt": "tokens 1", "reference": ["nothing", "t0 t1"]},
    ]
    async with start_worker():
        job = cortex.submit("job_1", inputs=inputs, job_type=pb.JOB_TYPE_EVALUATION)
        await cortex.until(lambda: job.state == "done")

    exact, partly = rows_of(job)
    assert exact["scores"] == {"exact_match": 1, "f1": 1.0}
    assert partly["scores"]["exact_match"] == 0
    assert 0 < partly["scores"]["f1"] < 1
    assert job.result is not None
    scores = json.loads(job.result.output.metadata_json)["scores"]
    assert scores["exact_match"] == 0.5


async def test_a_job_type_that_no_worker_runs_is_refused(
    cortex: FakeCortex, start_worker: StartWorker
) -> None:
    async with start_worker():
        job = cortex.submit("job_1", job_type=pb.JOB_TYPE_TRAINING)
        await cortex.until(lambda: job.state == "done")
        offered = cortex.registrations[0].capabilities.job_types

    assert job.result is not None
    assert job.result.error_details.code == pb.ERROR_CODE_RUNTIME_UNAVAILABLE
    assert set(offered) == {
        pb.JOB_TYPE_INFERENCE,
        pb.JOB_TYPE_BATCH_INFERENCE,
        pb.JOB_TYPE_EVALUATION,
    }
