"""Time to an interactive request's first token: beside a batch of 5,000 lines, and without it.

Once with the echo runtime, whose tokens take no processor (what is measured is who gets a slot),
and once with a tiny model on transformers, where both share the engine.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
from echo_catalog import ECHO, echo_catalog
from stack import Stack, running_stack, wait_until
from tiny_llama import build_tiny_llama
from tiny_stack import TINY

from .queues.figures import percentile
from .report import Row

LINES = 5_000
LINE_TOKENS = 48
REQUESTS = 200
REQUEST_TOKENS = 8
SLOTS = 16
ECHO_TOKEN_SECONDS = 0.01
PAUSE_SECONDS = 0.02
"""Between a request's end and the next one's beginning."""
TARGET = 2.0
CHATS = "/v1/chat/completions"


def run() -> list[Row]:
    """Return p95 of both, and their ratio, for each runtime; the target is at most 2."""
    rows = []
    with tempfile.TemporaryDirectory() as folder, _echo_system(Path(folder)) as stack:
        rows += _measure(stack, "echo", ECHO)
    with tempfile.TemporaryDirectory() as folder, _tiny_system(Path(folder)) as stack:
        rows += _measure(stack, "transformers", TINY)
    return rows


def _measure(stack: Stack, name: str, model: str) -> list[Row]:
    _first_token_ms(stack, model, 20)
    idle = percentile(_first_token_ms(stack, model, REQUESTS), 95)
    batch_id = _begin_batch(stack, model)
    wait_until(lambda: _status(stack, batch_id)["status"] == "in_progress", what="the batch")
    beside = percentile(_first_token_ms(stack, model, REQUESTS), 95)
    shown = _status(stack, batch_id)
    assert shown["status"] == "in_progress", f"the batch was over too soon: {shown}"
    done = shown["request_counts"]["completed"]
    assert done, "the batch has not begun"
    return [
        Row(f"{name}: p95 of an idle system", idle, "ms"),
        Row(f"{name}: p95 beside a batch", beside, "ms", f"{done} of {LINES} lines done"),
        Row(f"{name}: ratio", beside / idle, "x", f"at most {TARGET}", at_most=TARGET),
    ]


def _first_token_ms(stack: Stack, model: str, requests: int) -> list[float]:
    """One request after another; each is read to its end."""
    found = []
    connection = http.client.HTTPConnection("127.0.0.1", stack.http_port, timeout=60)
    with contextlib.closing(connection):
        for number in range(requests):
            body = _chat(model, f"question {number}", REQUEST_TOKENS) | {"stream": True}
            began = time.perf_counter()
            headers = {"content-type": "application/json"}
            connection.request("POST", CHATS, json.dumps(body), headers)
            answer = connection.getresponse()
            assert answer.status == 200, answer.read()
            found.append(1000 * (_time_of_first_token(answer) - began))
            answer.read()
            time.sleep(PAUSE_SECONDS)
    return found


def _time_of_first_token(answer: http.client.HTTPResponse) -> float:
    while line := answer.readline():
        text = line.decode().strip().removeprefix("data: ")
        if not text.startswith("{"):
            continue
        told = json.loads(text)
        assert "error" not in told, told
        if any(choice["delta"].get("content") for choice in told["choices"]):
            return time.perf_counter()
    raise AssertionError("the stream ended without a token")


def _chat(model: str, content: str, tokens: int) -> dict[str, Any]:
    return {
        "model": model,
        "messages": [{"role": "user", "content": content}],
        "max_tokens": tokens,
        "temperature": 0,
        "ignore_eos": True,
    }


def _begin_batch(stack: Stack, model: str) -> str:
    lines = [
        {
            "custom_id": str(number),
            "method": "POST",
            "url": CHATS,
            "body": _chat(model, f"line {number}", LINE_TOKENS),
        }
        for number in range(LINES)
    ]
    text = "\n".join(map(json.dumps, lines)).encode()
    with httpx2.Client(base_url=stack.cortex_url, timeout=60) as client:
        files = {"file": ("lines.jsonl", text)}
        file = client.post("/v1/files", data={"purpose": "batch"}, files=files)
        assert file.status_code == 200, file.text
        body = {
            "input_file_id": file.json()["id"],
            "endpoint": CHATS,
            "completion_window": "24h",
        }
        batch = client.post("/v1/batches", json=body)
        assert batch.status_code == 200, batch.text
        return str(batch.json()["id"])


def _status(stack: Stack, batch_id: str) -> dict[str, Any]:
    return stack.get(f"/v1/batches/{batch_id}")


@contextlib.contextmanager
def _tiny_system(root: Path) -> Iterator[Stack]:
    with running_stack(root) as stack:
        stack.start_platform()
        model = build_tiny_llama(root / "model", context=256)
        stack.mnemos("models", "push", str(model), "--name", TINY)
        stack.start_ready_worker(max_concurrent_jobs=SLOTS, log_level="WARNING")
        yield stack


@contextlib.contextmanager
def _echo_system(root: Path) -> Iterator[Stack]:
    with echo_catalog(ECHO_TOKEN_SECONDS) as catalog_url, running_stack(root) as stack:
        settings = {
            "CORTEX_DATA_DIR": str(root / "cortex"),
            "CORTEX_HTTP_PORT": str(stack.http_port),
            "CORTEX_GRPC_PORT": str(stack.grpc_port),
            "CORTEX_GENOME_URL": catalog_url,
            "CORTEX_ENGRAM_URL": stack.engram_url,
            "CORTEX_LOG_LEVEL": "WARNING",
        }
        command = [sys.executable, "-m", "mnemos.cortex"]
        process = stack.spawn("cortex", command, stack.cli_environment() | settings)
        stack.wait_for_http(f"{stack.cortex_url}/ready", process)
        stack.start_ready_worker(
            supported_runtimes="echo", max_concurrent_jobs=SLOTS, log_level="WARNING"
        )
        yield stack
