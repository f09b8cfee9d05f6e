"""Batches and evaluations on a real model: a row brings what a job of its own would."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from neuron.models.job import JobInput, JobOutput, JobSpec, RowResult
from neuron.runtimes.transformers_runtime import TransformersRuntime
from neuron.services.rows.running import RowsRun

PROMPTS = ["Hello", "Count to ten, please.", "東京", "x " * 30]


async def run(runtime: TransformersRuntime, job_type: str, **job_input: Any) -> JobOutput:
    job = JobSpec.model_validate(
        {
            "job_id": "job_1",
            "job_type": job_type,
            "model": {"family": "tiny", "version": "1", "runtime": "transformers"},
            "input": job_input,
        }
    )

    async def keep(row: RowResult) -> None:
        assert row.result

    return await RowsRun(job, [], runtime.generate, keep, 8).run()


async def test_a_row_is_answered_as_a_job_of_its_own(runtime: TransformersRuntime) -> None:
    parameters = {"temperature": 0, "max_tokens": 12}
    alone = [
        await runtime.execute(JobInput(prompt=prompt, parameters=parameters)) for prompt in PROMPTS
    ]

    output = await run(
        runtime, "batch_inference", inputs=[*PROMPTS, "x " * 1000], parameters=parameters
    )

    assert [row.get("result") for row in output.result] == [*[one.result for one in alone], None]
    assert output.result[-1]["error"]["code"] == "invalid_input"
    told = {"tokens_generated": 48, "rows": 5, "rows_failed": 1}
    assert {name: output.metadata[name] for name in told} == told


def loss_of(folder: Path, prompt: str, reference: str) -> tuple[float, int]:
    """The cross entropy of the reference's tokens in one pass of the whole text; their count."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    head = tokenizer.encode(prompt, add_special_tokens=True)
    tail = tokenizer.encode(reference, add_special_tokens=False)
    with torch.inference_mode():
        model = AutoModelForCausalLM.from_pretrained(folder)
        logits = model(torch.tensor([head + tail])).logits[0, len(head) - 1 : -1]
        return torch.nn.functional.cross_entropy(logits, torch.tensor(tail)).item(), len(tail)


async def test_perplexity_is_the_model_s_own_loss(
    cache: Path, runtime: TransformersRuntime
) -> None:
    prompt, reference = "The capital of", " France is Paris"
    loss, tokens = loss_of(cache / "tiny" / "1", prompt, reference)

    output = await run(
        runtime,
        "evaluation",
        inputs=[{"prompt": prompt, "reference": reference}],
        parameters={"raw": True, "metrics": ["perplexity"]},
    )

    (row,) = output.result
    assert row["reference_tokens"] == tokens
    assert row["scores"]["perplexity"] == pytest.approx(math.exp(loss), rel=1e-4)


async def test_an_answer_that_is_its_own_reference_scores_best(
    runtime: TransformersRuntime,
) -> None:
    parameters = {"temperature": 0, "max_tokens": 12}
    batch = await run(runtime, "batch_inference", inputs=PROMPTS, parameters=parameters)
    answers = [row["result"] for row in batch.result]
    rows = [
        {"prompt": prompt, "reference": reference}
        for prompt, reference in zip(PROMPTS, [*answers[:-1], "else entirely"], strict=True)
    ]

    output = await run(runtime, "evaluation", inputs=rows, parameters=parameters)

    assert output.metadata["scores"]["exact_match"] == pytest.approx(3 / 4)
    assert output.metadata["scores"]["rows_scored"] == 4
