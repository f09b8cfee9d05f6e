"""Limits of keys, with a clock that tests turn."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import Any

import pytest

from mnemos.cortex.keys.bucket import TokenBucket
from mnemos.cortex.keys.estimate import tokens_of
from mnemos.cortex.keys.quotas import ROOM_WITHOUT_LIMIT, Quotas
from mnemos.cortex.keys.records import ApiKey
from mnemos.cortex.records import NewJob, Submitted
from mnemos.cortex.state_machine import JobState
from mnemos.http import ApiError


class Books:
    """Keys, how many of their jobs wait, and what jobs turned out to need."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.keys: dict[str, ApiKey] = {}
        self.waiting = 0
        self.spent: dict[str, int | None] = {}
        self.quotas = Quotas(self.keys.get, self._waiting, self._spent, clock=lambda: self.now)

    def key(self, **limits: Any) -> str:
        key = ApiKey(
            key_id="key_a",
            name="alice",
            secret_hash="",
            scopes=frozenset({"submit"}),
            created_at=0,
            **limits,
        )
        self.keys[key.key_id] = key
        return key.key_id

    async def submit(self, *jobs: NewJob, created: bool = True) -> None:
        async with self.quotas.admitted("key_a", jobs):
            pass
        stored = [Submitted(job.job_id, JobState.PENDING, created=created) for job in jobs]
        self.quotas.stored(jobs, stored)

    def left(self) -> int:
        return int(self.quotas.headers("key_a")["x-ratelimit-remaining-tokens"])

    async def _waiting(self, _key_id: str, most: int) -> int:
        return min(self.waiting, most)

    async def _spent(self, job_ids: Collection[str]) -> Mapping[str, int | None]:
        return {job_id: self.spent[job_id] for job_id in job_ids if job_id in self.spent}


def a_job(number: int = 1, tokens: int = 60, **changes: Any) -> NewJob:
    job_input = json.dumps({"prompt": "Hi", "parameters": {"max_tokens": tokens}})
    fields: dict[str, Any] = {
        "job_id": f"job_{number}",
        "job_type": "inference",
        "priority": 5,
        "family": "tiny",
        "version": "1",
        "runtime": "transformers",
        "runtime_config": "{}",
        "input": job_input,
        "timeout_seconds": 60,
        "retry_config": "{}",
        "metadata": "{}",
        "request_hash": "",
    }
    return NewJob(**{**fields, **changes})


def test_a_bucket_fills_with_time_and_not_beyond_its_size() -> None:
    bucket = TokenBucket.full(60, 0.0)
    bucket.take(100)
    assert bucket.wait_seconds(1) == 41
    bucket.fill(41.0)
    assert bucket.wait_seconds(1) == 0
    bucket.fill(1000.0)
    assert (bucket.level, bucket.wait_seconds(500)) == (60, 0)


def test_a_job_is_taken_for_its_prompt_and_what_it_may_draw() -> None:
    prompt = len(a_job().input) // 4
    assert tokens_of(a_job()) == prompt + 60
    twice = json.dumps({"prompt": "Hi", "parameters": {"max_tokens": 60, "n": 2}})
    assert tokens_of(a_job(input=twice)) == len(twice) // 4 + 120
    assert tokens_of(a_job(row_count=3)) == prompt + 180
    assert tokens_of(a_job(tokens=2**31)) < 1000


async def test_tokens_flow_back_with_time() -> None:
    books = Books()
    books.key(tokens_per_minute=120)
    await books.submit(a_job(1, tokens=100))
    with pytest.raises(ApiError) as refused:
        await books.submit(a_job(2, tokens=100))
    assert refused.value.status_code == 429
    assert refused.value.headers is not None
    books.now += int(refused.value.headers["Retry-After"])
    await books.submit(a_job(2, tokens=100))


async def test_what_was_not_needed_is_given_back() -> None:
    books = Books()
    books.key(tokens_per_minute=1000)
    await books.submit(a_job(1, tokens=500))
    taken = 1000 - books.left()
    books.spent["job_1"] = 100
    await books.quotas.settle()
    assert books.left() == 900
    await books.submit(a_job(2, tokens=500), created=False)
    assert books.left() == 900
    books.spent["job_3"] = None
    await books.submit(a_job(3, tokens=500))
    await books.quotas.settle()
    assert books.left() == 900 - taken


async def test_a_submission_that_fails_costs_nothing() -> None:
    books = Books()
    books.key(tokens_per_minute=1000, max_waiting_jobs=1)
    with pytest.raises(ZeroDivisionError):
        async with books.quotas.admitted("key_a", [a_job(tokens=900)]):
            raise ZeroDivisionError
    await books.submit(a_job(tokens=900))


async def test_jobs_on_their_way_count_as_waiting() -> None:
    books = Books()
    books.key(max_waiting_jobs=3)
    books.waiting = 1
    async with books.quotas.admitted("key_a", [a_job(1), a_job(2)]):
        assert await books.quotas.room("key_a") == 0
        with pytest.raises(ApiError) as refused:
            await books.submit(a_job(3))
        assert refused.value.status_code == 429
    assert await books.quotas.room("key_a") == 2


async def test_drivers_of_batches_wait_for_room() -> None:
    books = Books()
    assert await books.quotas.room("key_nobodys") == ROOM_WITHOUT_LIMIT
    books.key(tokens_per_minute=60)
    assert await books.quotas.room("key_a") == ROOM_WITHOUT_LIMIT
    books.quotas.charge("key_a", [a_job(1, tokens=100)])
    assert await books.quotas.room("key_a") == 0
    books.now += 60
    assert await books.quotas.room("key_a") > 0


async def test_a_limit_that_changes_holds_at_once() -> None:
    books = Books()
    books.key(tokens_per_minute=100_000)
    await books.submit(a_job(1, tokens=100))
    books.key(tokens_per_minute=50)
    assert books.quotas.headers("key_a")["x-ratelimit-limit-tokens"] == "50"
    await books.submit(a_job(2, tokens=100))
    with pytest.raises(ApiError):
        await books.submit(a_job(3, tokens=1))
    books.key()
    await books.submit(a_job(4, tokens=100_000))
    assert books.quotas.headers("key_a") == {}
