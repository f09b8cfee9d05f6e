"""Jobs through the real commands: streams, cancel, and why a job waits."""

from __future__ import annotations

import json

import pytest
from stack import MNEMOS, Stack, wait_until
from tiny_stack import TINY, tiny_job

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]


def test_tokens_reach_watch_while_they_are_generated(stack: Stack) -> None:
    stack.start_ready_worker()
    (job_id,) = stack.submit([tiny_job("watch", 0, max_tokens=4000, stream=True)])
    watch = stack.spawn("watch", [*MNEMOS, "jobs", "watch", job_id], stack.cli_environment())
    sizes: list[int] = []

    def seen_growing() -> bool:
        size = watch.log.stat().st_size
        if size > (sizes[-1] if sizes else 0):
            sizes.append(size)
        return len(sizes) >= 5

    wait_until(seen_growing, what="five separate writes of tokens")

    assert stack.job(job_id)["status"] == "streaming"
    stack.mnemos("jobs", "cancel", job_id)
    assert watch.wait() != 0
    wait_until(lambda: stack.job(job_id)["status"] == "cancelled", what="the cancelled job")


def test_cancel_frees_the_slot_for_the_next_job(stack: Stack) -> None:
    stack.start_ready_worker(max_concurrent_jobs=1)
    first, second = stack.submit(
        [tiny_job("slots", 0, max_tokens=8000), tiny_job("slots", 1, max_tokens=4)]
    )
    wait_until(lambda: stack.job(first)["status"] == "executing", what="the first job running")

    stack.mnemos("jobs", "cancel", first)

    wait_until(lambda: stack.job(second)["status"] == "completed", what="the second job's end")
    assert stack.job(first)["status"] == "cancelled"


def test_timeout_covers_generation(stack: Stack) -> None:
    stack.start_ready_worker()
    (job_id,) = stack.submit([tiny_job("timeout", 0, max_tokens=8000, timeout_seconds=1)])

    wait_until(lambda: stack.job(job_id)["status"] == "timeout", what="the timeout")

    assert stack.job(job_id)["error"]["code"] == "timeout"


def test_job_for_a_runtime_no_worker_has_waits_and_says_why(stack: Stack) -> None:
    stack.start_ready_worker()
    job = tiny_job("vllm", 0)
    job["model"]["runtime"] = "vllm"
    (job_id,) = stack.submit([job])

    shown = stack.mnemos("jobs", "show", job_id)
    as_json = json.loads(stack.mnemos("jobs", "show", job_id, "-o", "json").stdout)

    assert "vllm" in as_json["waiting_reason"]
    assert as_json["waiting_reason"] in " ".join(shown.stdout.split())


def test_prompt_longer_than_the_context(stack: Stack) -> None:
    stack.start_ready_worker()
    job = tiny_job("long", 0)
    job["input"]["prompt"] = "word " * 20_000
    (job_id,) = stack.submit([job])

    wait_until(lambda: stack.job(job_id)["status"] == "failed", what="the refusal")

    shown = stack.job(job_id)
    assert shown["error"]["code"] == "invalid_input"
    assert "8192" in shown["error"]["message"]
    assert len(shown["attempts"]) == 1


def test_damaged_artifact(stack: Stack) -> None:
    weights = next((stack.data_dir / "engram").rglob("model.safetensors"))
    content = bytearray(weights.read_bytes())
    content[-1] ^= 0xFF
    weights.write_bytes(content)
    stack.start_ready_worker()
    (job_id,) = stack.submit([tiny_job("damaged", 0, retry_config={"max_retries": 0})])

    wait_until(lambda: stack.job(job_id)["status"] == "failed", what="the failure")

    error = stack.job(job_id)["error"]
    assert error["code"] == "artifact_corrupt"
    assert "model.safetensors" in error["message"]
    assert not list((stack.root / "cache").rglob("model.safetensors")), "half a model was left"


@pytest.mark.parametrize(
    ("changes", "status", "code"),
    [
        ({"model": {"family": "nobody", "version": "1"}}, 404, "model_not_found"),
        ({"model": {"family": "tiny", "version": "9"}}, 404, "model_not_found"),
        ({"model": {"family": "tiny", "version": "1", "runtime": "abacus"}}, 422, "invalid_input"),
        ({"model": {"family": "../etc", "version": "1"}}, 422, "invalid_input"),
        ({"model": {"family": "tiny", "version": "../1"}}, 422, "invalid_input"),
        ({"input": {"prompt": ""}}, 422, "invalid_input"),
        ({"input": {"prompt": "x", "parameters": {"max_tokens": 0}}}, 422, "invalid_input"),
        ({"input": {"prompt": "x", "parameters": {"temperature": 3}}}, 422, "invalid_input"),
        ({"priority": 11}, 422, "invalid_input"),
        ({"timeout_seconds": 0}, 422, "invalid_input"),
    ],
)
def test_bad_job_is_refused_at_submit(
    stack: Stack, changes: dict[str, object], status: int, code: str
) -> None:
    import httpx2

    response = httpx2.post(f"{stack.cortex_url}/api/v1/jobs", json=tiny_job("bad", 0) | changes)

    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert error["code"] == code
    assert error["message"].endswith((".", "?", ")", '"')) or len(error["message"]) > 10
    assert stack.get("/api/v1/stats")["jobs"].get("pending", 0) == 0


def test_run_models_and_workers_are_listed(stack: Stack) -> None:
    stack.start_ready_worker()

    models = json.loads(stack.mnemos("models", "list", "-o", "json").stdout)
    workers = json.loads(stack.mnemos("workers", "list", "-o", "json").stdout)

    assert TINY in json.dumps(models).replace('"family": "tiny", "version": "1"', TINY)
    assert len(workers if isinstance(workers, list) else workers["workers"]) == 1
