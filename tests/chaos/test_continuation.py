"""Answers go on where they were when their worker, or their engine, was killed."""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import psutil
import pytest
from stack import Process, Stack, running_stack, wait_until
from tiny_stack import TINY, finished, tiny_job

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(300)]

JOBS = 20
LONG_TOKENS = 2000


@dataclass
class Reader:
    """Reads a job's events along, over one connection, as they come."""

    job_id: str
    events: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    ended: threading.Event = field(default_factory=threading.Event)

    def kinds(self) -> set[str]:
        return {kind for kind, _ in self.events}

    def tokens(self, attempt: int | None = None) -> list[dict[str, Any]]:
        told = [data for kind, data in list(self.events) if kind == "token"]
        return [data for data in told if attempt in (None, data["attempt"])]

    @property
    def text(self) -> str:
        return "".join(data["content"] for data in self.tokens())

    @property
    def token_ids(self) -> list[int]:
        return [token for data in self.tokens() for token in data["token_ids"]]

    def follow(self, cortex_url: str) -> None:
        url = f"{cortex_url}/api/v1/jobs/{self.job_id}/stream"
        kind = ""
        with httpx2.stream("GET", url, timeout=300) as response:
            for line in response.iter_lines():
                name, _, value = line.partition(": ")
                if name == "event":
                    kind = value
                elif name == "data":
                    self.events.append((kind, json.loads(value)))
        self.ended.set()


@contextmanager
def reading(stack: Stack, job_ids: list[str]) -> Iterator[list[Reader]]:
    """Follow jobs, each in a thread that ends with its job."""
    readers = [Reader(job_id) for job_id in job_ids]
    for reader in readers:
        threading.Thread(target=reader.follow, args=(stack.cortex_url,), daemon=True).start()
    yield readers
    assert all(reader.ended.wait(60) for reader in readers), "a reader's stream has no end"


def long_jobs(group: str) -> list[dict[str, Any]]:
    """Streamed and unstreamed ones, greedy and seeded, with characters of several tokens.

    Few candidates: among all tokens, one in some ten thousand draws falls between two of them so
    closely that rounding decides.
    """
    jobs = []
    for index in range(JOBS):
        job = tiny_job(group, index, max_tokens=LONG_TOKENS, stream=index % 2 == 0)
        job["input"]["prompt"] = f"Grüße {index} aus 東京 🙂"
        if index % 4 >= 2:
            job["input"]["parameters"] |= {"temperature": 1.0, "top_k": 5, "seed": index}
        jobs.append(job)
    return jobs


@pytest.fixture
def stack(tmp_path: Path, tiny_model: Path) -> Iterator[Stack]:
    """The same system as for all, where a third lost worker says nothing about a job.

    Jobs that two were lost under would else be taken up one after the other.
    """
    more = {"CORTEX_LEASE_SECONDS": "3", "CORTEX_MAX_LOST_WORKERS": "9"}
    with running_stack(tmp_path, **more) as stack:
        stack.start_platform()
        stack.mnemos("models", "push", str(tiny_model), "--name", TINY)
        yield stack


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> list[str]:
    """The long jobs' answers when nothing disturbs them."""
    with running_stack(tmp_path_factory.mktemp("calm")) as stack:
        stack.start_platform()
        stack.mnemos("models", "push", str(tiny_model), "--name", TINY)
        stack.start_ready_worker(max_concurrent_jobs=JOBS)
        job_ids = stack.submit(long_jobs("calm"))
        wait_until(lambda: finished(stack, "calm") == JOBS, seconds=100, what="the calm jobs")
        return [stack.job(job_id)["result"] for job_id in job_ids]


def wait_for_tokens(readers: list[Reader], attempt: int) -> None:
    wait_until(
        lambda: all(reader.tokens(attempt) for reader in readers),
        seconds=60,
        what=f"tokens of every job's attempt {attempt}",
    )
    assert not any(reader.ended.is_set() for reader in readers), "the jobs were too short"


def assert_went_on(stack: Stack, readers: list[Reader], texts: list[str], attempts: int) -> None:
    for reader, text in zip(readers, texts, strict=True):
        job = stack.job(reader.job_id)
        assert (job["status"], job["attempt"]) == ("completed", attempts), job
        told = job["output_metadata"]
        before = [data for data in reader.tokens() if data["attempt"] < attempts]
        assert told["resumed_tokens"] == sum(len(data["token_ids"]) for data in before) > 0
        assert told["tokens_generated"] == len(reader.token_ids) == LONG_TOKENS
        assert "restart" not in reader.kinds()
        assert reader.text == job["result"] == text


def kill_engines(worker: Process) -> None:
    """The engines of a worker are the children of its children, which only guard them."""
    for guard in psutil.Process(worker.pid).children():
        for engine in guard.children():
            engine.kill()


def test_jobs_go_on_behind_each_seam_when_two_workers_are_killed(
    stack: Stack, texts: list[str]
) -> None:
    worker = stack.start_ready_worker(max_concurrent_jobs=JOBS)
    with reading(stack, stack.submit(long_jobs("workers"))) as readers:
        for attempt in (1, 2):
            wait_for_tokens(readers, attempt)
            worker.kill()
            worker = stack.start_ready_worker(max_concurrent_jobs=JOBS)
        wait_until(lambda: finished(stack, "workers") == JOBS, seconds=150, what="all jobs")

    assert_went_on(stack, readers, texts, attempts=3)


def test_jobs_go_on_when_their_engine_is_killed(stack: Stack, texts: list[str]) -> None:
    worker = stack.start_ready_worker(max_concurrent_jobs=JOBS)
    with reading(stack, stack.submit(long_jobs("engine"))) as readers:
        wait_for_tokens(readers, 1)
        kill_engines(worker)
        wait_until(lambda: finished(stack, "engine") == JOBS, seconds=150, what="all jobs")

    assert worker.alive, worker.tail()
    assert_went_on(stack, readers, texts, attempts=2)


def test_jobs_go_on_when_their_worker_hands_them_back(stack: Stack, texts: list[str]) -> None:
    worker = stack.start_ready_worker(max_concurrent_jobs=JOBS, shutdown_timeout=1)
    with reading(stack, stack.submit(long_jobs("drain"))) as readers:
        wait_until(lambda: all(reader.tokens(1) for reader in readers[::2]), what="streamed tokens")
        worker.signal(signal.SIGTERM)
        assert worker.wait() == 0, worker.tail()
        stack.start_ready_worker(max_concurrent_jobs=JOBS)
        wait_until(lambda: finished(stack, "drain") == JOBS, seconds=150, what="all jobs")

    assert_went_on(stack, readers, texts, attempts=2)
    assert not any(stack.job(reader.job_id)["retries_used"] for reader in readers)


def test_a_guided_answer_starts_over_and_says_so(stack: Stack) -> None:
    job = tiny_job("guided", 0, max_tokens=4000, stream=True)
    job["input"]["parameters"] |= {"regex": "[a-z]{1500}", "ignore_eos": False}
    choices = tiny_job("guided", 1, max_tokens=LONG_TOKENS, stream=False)
    choices["input"]["parameters"] |= {"n": 2}
    worker = stack.start_ready_worker()
    with reading(stack, stack.submit([job, choices])) as (guided, many):
        wait_for_tokens([guided], 1)
        kill_engines(worker)
        wait_until(lambda: finished(stack, "guided") == 2, seconds=150, what="both jobs")

    done = stack.job(guided.job_id)
    assert (done["status"], done["attempt"]) == ("completed", 2), done
    assert [kind for kind, _ in guided.events].count("restart") == 1
    assert "".join(data["content"] for data in guided.tokens(2)) == done["result"]
    assert done["output_metadata"]["resumed_tokens"] == 0
    assert stack.job(many.job_id)["status"] == "completed"
    assert not many.tokens()
