"""Rows of tensors in a batch: each alone, so that a wrong one costs itself only."""

from __future__ import annotations

from typing import Any

import pytest

from neuron.models.job import JobInput, JobOutput, JobSpec, RowResult
from neuron.runtimes.pytorch_runtime import PyTorchRuntime
from neuron.services.rows.running import RowsRun

ROWS = [[0.5, -1.0, 2.0, 0.0], [1, 2, 3, 4], [0, 0, 0, 0]]


async def run(runtime: PyTorchRuntime, *rows: Any, **parameters: Any) -> JobOutput:
    job = JobSpec.model_validate(
        {
            "job_id": "job_1",
            "job_type": "batch_inference",
            "model": {"family": "tiny", "version": "exported", "runtime": "pytorch"},
            "input": {"inputs": list(rows), "parameters": parameters},
        }
    )

    async def keep(row: RowResult) -> None:
        assert row.result

    return await RowsRun(job, [], runtime.generate, keep, 8).run()


async def test_rows_of_tensors_are_answered_as_in_one_job(load: Any) -> None:
    runtime = await load("exported", batch_size=8)
    inputs = [{"x": row} for row in ROWS]
    together = await runtime.execute(JobInput(inputs=inputs))

    output = await run(runtime, *[{"id": "r", **row} for row in inputs], stream=True)

    assert [row["id"] for row in output.result] == ["r"] * 3
    for row, expected in zip(output.result, together.result, strict=True):
        assert row["result"]["logits"] == pytest.approx(expected["logits"], abs=1e-5)


async def test_a_wrong_row_is_told_with_its_place_in_the_job(load: Any) -> None:
    runtime = await load("exported", batch_size=8)

    output = await run(runtime, {"x": ROWS[0]}, {"x": [1, 2]}, {"y": ROWS[1]})

    assert output.metadata["rows_failed"] == 2
    messages = [row["error"]["message"] for row in output.result[1:]]
    assert messages[0].startswith("inputs[1].x: expected float32 of shape [4]")
    assert messages[1].startswith("inputs[2]: the model has no input 'y'")


async def test_what_only_texts_can_have_is_the_rows_error(load: Any) -> None:
    runtime = await load("exported", batch_size=8)

    output = await run(runtime, {"x": ROWS[0]}, max_tokens=5)

    assert "is for models that generate text" in output.result[0]["error"]["message"]
