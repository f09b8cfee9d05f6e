"""A custom model from `mnemos models push` to the jobs' results, through real processes."""

from __future__ import annotations

import asyncio
import struct
from pathlib import Path
from typing import Any

import pytest
import tiny_torch
from stack import Stack, running_stack, wait_until

from mnemos.engram.store import ObjectStore

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]
CONFIG = {"batch_size": 8}


def job(given: dict[str, Any], **more: Any) -> dict[str, Any]:
    model = {"family": "mood", "version": "1", "runtime_config": CONFIG}
    return {"model": model, "input": given, **more}


def ended(stack: Stack, job_id: str) -> dict[str, Any]:
    finals = {"completed", "failed", "cancelled", "timeout"}
    wait_until(lambda: stack.job(job_id)["status"] in finals, what=f"the end of {job_id}")
    return stack.job(job_id)


def test_a_custom_model_answers_through_the_whole_system(tmp_path: Path) -> None:
    folder = tiny_torch.write_text_model(tmp_path / "mood")
    with running_stack(tmp_path) as stack:
        stack.start_platform()
        stack.mnemos("models", "push", str(folder), "--name", "mood:1", "--runtime", "pytorch")
        stack.start_ready_worker(max_concurrent_jobs=8, supported_runtimes="pytorch")
        texts = ["the cat sings", "a dog barks"]
        ids = stack.submit(
            [
                job({"prompt": texts[0]}),
                job({"inputs": texts}),
                job({"inputs": [{"input_ids": [99], "attention_mask": [1]}]}),
                job({"messages": [{"role": "user", "content": "hello"}]}),
            ]
        )
        single, several, bad, chat = (ended(stack, job_id) for job_id in ids)

    assert single["status"] == several["status"] == "completed", (single, several)
    assert single["model"]["runtime"] == "pytorch"
    labels = [one["label"] for one in single["result"]["logits"]]
    assert sorted(labels) == sorted(tiny_torch.LABELS)
    assert [one["label"] for one in several["result"][0]["logits"]] == labels
    assert several["output_metadata"]["rows"] == 2
    assert bad["error"]["code"] == chat["error"]["code"] == "invalid_input"
    assert "inputs[0].input_ids" in bad["error"]["message"]
    assert len(bad["attempts"]) == 1


async def keep(stack: Stack, key: str, data: bytes) -> None:
    store = ObjectStore.from_url(stack.engram_url)
    await store.ensure_bucket("mnemos-artifacts")
    await store.put_bytes("mnemos-artifacts", key, data)


def referring(key: str) -> dict[str, Any]:
    tensor = {"engram": f"mnemos-artifacts/{key}", "dtype": "int64", "shape": [3]}
    return {"inputs": [{"input_ids": tensor, "attention_mask": [1, 1, 1]}]}


def test_rows_in_engram_are_answered_as_rows_in_the_job(tmp_path: Path) -> None:
    folder = tiny_torch.write_text_model(tmp_path / "mood")
    sent = {"inputs": [{"input_ids": [2, 4, 7], "attention_mask": [1, 1, 1]}]}
    with running_stack(tmp_path) as stack:
        stack.start_platform()
        stack.mnemos("models", "push", str(folder), "--name", "mood:1", "--runtime", "pytorch")
        asyncio.run(keep(stack, "words.bin", struct.pack("<3q", 2, 4, 7)))
        stack.start_ready_worker(max_concurrent_jobs=4, supported_runtimes="pytorch")
        jobs = [job(sent), job(referring("words.bin")), job(referring("nothing.bin"))]
        wanted, referred, lost = (ended(stack, job_id) for job_id in stack.submit(jobs))

    assert wanted["status"] == referred["status"] == "completed", (wanted, referred)
    assert referred["result"] == wanted["result"]
    assert lost["error"]["code"] == "invalid_input"
    said = "inputs[0].input_ids: ENGRAM holds no mnemos-artifacts/nothing.bin"
    assert lost["error"]["message"] == said
    assert len(lost["attempts"]) == 1
