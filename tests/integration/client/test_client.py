"""The client against a real CORTEX: jobs, streams over cuts, and maps over a kill -9."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from itertools import islice
from typing import Any

import pytest
from echo_jobs import echo_text
from fault_proxy import FaultProxy, Way
from live_cortex import LiveCortex

from mnemos import AsyncClient, Client
from mnemos.client import (
    Answer,
    InvalidInputError,
    JobCancelledError,
    JobRequest,
    MnemosError,
    NotFoundError,
    Progress,
    Retry,
    UnreachableError,
    WaitTimeoutError,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")

ECHO: dict[str, Any] = {"runtime": "echo", "retry": Retry(max_retries=50, max_backoff_seconds=1.0)}
MODEL = "echo:1"
TOKENS = 3
LESS_THAN_A_JOB = 700
"""Bytes: the event that ends a stream has more."""


def question(index: int) -> str:
    return echo_text(index, 8)


def wrong(answers: list[Answer[str]]) -> list[object]:
    """What is not the answer to its question."""
    return [
        answer.error or answer.value
        for answer in answers
        if not answer.ok or answer.value != echo_text(answer.index, TOKENS)
    ]


async def jobs_of(cortex: LiveCortex, run_id: str) -> int:
    page = await cortex.http.get(f"/api/v1/groups/{run_id}/results?limit=1&wait_seconds=0")
    return int(page.json()["counts"]["total"])


async def test_a_map_over_a_killed_cortex_gives_each_answer_once(
    cortex: LiveCortex, url: str
) -> None:
    count, window = 2000, 300
    taken, told = 0, list[Progress]()
    most_held = 0
    answers: list[Answer[str]] = []

    async def questions() -> AsyncIterator[str]:
        nonlocal taken, most_held
        for index in range(count):
            taken += 1
            most_held = max(most_held, taken - len(answers))
            yield question(index)

    async def restart() -> None:
        await cortex.kill()
        await cortex.start()

    async with AsyncClient(url) as client, asyncio.TaskGroup() as group:
        mapped = client.map(
            questions(),
            model=MODEL,
            window=window,
            run_id="killed",
            on_progress=told.append,
            total=count,
            max_tokens=TOKENS,
            **ECHO,
        )
        async for answer in mapped:
            answers.append(answer)
            if len(answers) == count // 4:
                group.create_task(restart())

    assert Counter(answer.index for answer in answers) == Counter(range(count))
    assert not wrong(answers)
    assert await jobs_of(cortex, "killed") == count
    assert most_held <= window + 1, "the generator runs one item ahead"
    assert (told[-1].done, told[-1].failed, told[-1].total) == (count, 0, count)
    assert max(progress.in_flight for progress in told) <= window


async def test_a_crashed_client_goes_on_with_the_same_run_and_pays_nothing_twice(
    cortex: LiveCortex, url: str
) -> None:
    count = 400

    def ask(client: Client, **more: Any) -> Iterator[Answer[str]]:
        return client.map(
            (question(index) for index in range(count)),
            model=MODEL,
            run_id="crashed",
            window=100,
            max_tokens=TOKENS,
            **more,
            **ECHO,
        )

    def crash_and_go_on() -> list[Answer[str]]:
        with Client(url) as client:
            assert len(list(islice(ask(client), count // 2))) == count // 2
        with Client(url) as client:
            return list(ask(client, ordered=True))

    answers = await asyncio.to_thread(crash_and_go_on)

    assert [answer.index for answer in answers] == list(range(count))
    assert not wrong(answers)
    assert await jobs_of(cortex, "crashed") == count


async def test_answers_come_as_they_are_there_unless_order_is_wanted(url: str) -> None:
    slow, quick = echo_text(1, 8), echo_text(2, 8)
    items = [
        JobRequest(id="slow", prompt=slow, parameters={"max_tokens": 40}),
        JobRequest(id="quick", prompt=quick, parameters={"max_tokens": 1}),
    ]
    pace = {"token_seconds": 0.02}
    async with AsyncClient(url) as client:
        free = client.map(items, model=MODEL, runtime_config=pace, **ECHO)
        assert [answer.id async for answer in free] == ["quick", "slow"]
        in_order = client.map(items, model=MODEL, ordered=True, runtime_config=pace, **ECHO)
        assert [answer.id async for answer in in_order] == ["slow", "quick"]


async def test_an_item_that_fails_is_an_answer_or_an_exception(url: str) -> None:
    items: list[Any] = ["fine", {"prompt": "warm", "parameters": {"temperature": 9}}, {"word": 1}]

    def returned() -> list[Answer[Any]]:
        with Client(url) as client:
            return list(client.map(items, model=MODEL, ordered=True, max_tokens=1, **ECHO))

    fine, warm, word = await asyncio.to_thread(returned)
    assert fine.value == "fine"
    assert isinstance(warm.error, InvalidInputError)
    assert (warm.error.field, warm.job) == ("input.parameters.temperature", None)
    assert isinstance(word.error, InvalidInputError)
    assert word.error.field == "word"
    with pytest.raises(InvalidInputError):
        _ = warm.value

    def raised() -> None:
        with Client(url) as client:
            for _ in client.map(items, model=MODEL, on_error="raise", **ECHO):
                pass

    with pytest.raises(InvalidInputError):
        await asyncio.to_thread(raised)


async def test_a_stopped_map_cancels_its_jobs_if_told_to(url: str) -> None:
    items = [JobRequest(prompt="first", parameters={"max_tokens": 1}), "never", "never"]
    long: dict[str, Any] = {"max_tokens": 10_000, "runtime_config": {"token_seconds": 1.0}}
    asked: dict[str, Any] = {"model": MODEL, **long, **ECHO}

    async def left_by_async(client: AsyncClient, run_id: str, on_stop: Any) -> int:
        async with client.map(items, run_id=run_id, on_stop=on_stop, **asked) as mapped:
            async for answer in mapped:
                assert answer.value == "first"
                break
        return await client.cancel_group(run_id)

    def left_by_sync() -> int:
        with Client(url) as client:
            with client.map(items, run_id="stop-sync", on_stop="cancel", **asked) as mapped:
                assert next(mapped).value == "first"
            return client.cancel_group("stop-sync")

    async with AsyncClient(url) as client:
        assert await left_by_async(client, "stop-cancel", "cancel") == 0
        assert await left_by_async(client, "stop-leave", "leave") == 2
        again = client.map(items, run_id="stop-cancel", ordered=True, **asked)
        codes = [answer.error and answer.error.code async for answer in again]
        assert codes == [None, "cancelled", "cancelled"]
    assert await asyncio.to_thread(left_by_sync) == 0


async def test_a_stream_goes_on_over_cut_connections(cortex: LiveCortex, url: str) -> None:
    async with FaultProxy("127.0.0.1", cortex.http_port) as proxy:
        notes: list[str] = []

        def cut_again(note: str) -> None:
            notes.append(note)
            if len(notes) == 1:
                proxy.cut_after(LESS_THAN_A_JOB, Way.DOWN)

        async with AsyncClient(f"http://{proxy.address}", on_notice=cut_again) as client:
            job = await client.submit(question(7), model=MODEL, stream=True, max_tokens=40, **ECHO)
            proxy.cut_after(LESS_THAN_A_JOB, Way.DOWN)
            tokens = [token async for token in job.stream()]
            info = await job.wait()

    assert "".join(token.text for token in tokens) == echo_text(7, 40) == info.result
    places = [token.sequence for token in tokens]
    assert places == sorted(set(places))
    assert proxy.faults.cuts >= 2
    assert info.usage.completion_tokens == 40


async def test_a_job_from_its_submission_to_its_end(url: str) -> None:
    def live() -> None:
        with Client(url) as client:
            job = client.submit(question(1), model=MODEL, max_tokens=4, **ECHO)
            assert job.result(timeout=30) == echo_text(1, 4)
            assert [str(token) for token in job.stream()] == [echo_text(1, 4)]
            assert client.get(job.id).info.completed
            same = [
                client.submit("same", model=MODEL, idempotency_key="key-1", **ECHO).id
                for _ in range(2)
            ]
            assert same[0] == same[1]
            streamed = client.submit(question(2), model=MODEL, stream=True, max_tokens=9, **ECHO)
            pieces = list(streamed.stream())
            half = pieces[len(pieces) // 2]
            rest = list(streamed.stream(after=half.sequence))
            assert rest == pieces[len(pieces) // 2 + 1 :]

            long = client.submit(
                "long",
                model=MODEL,
                max_tokens=10_000,
                runtime_config={"token_seconds": 1.0},
                **ECHO,
            )
            with pytest.raises(WaitTimeoutError) as late:
                long.wait(timeout=0.2)
            assert late.value.job_id == long.id
            long.cancel()
            with pytest.raises(JobCancelledError) as cancelled:
                long.result(timeout=30)
            assert (cancelled.value.code, cancelled.value.job_id) == ("cancelled", long.id)
            assert long.cancel().status == "cancelled"

    await asyncio.to_thread(live)


async def test_every_refusal_has_its_type_and_says_where(url: str) -> None:
    async with AsyncClient(url) as client:
        with pytest.raises(InvalidInputError) as refused:
            await client.submit("x", model=MODEL, temperature=9, **ECHO)
        assert refused.value.field == "input.parameters.temperature"
        assert (refused.value.code, refused.value.status) == ("invalid_input", 422)
        assert not refused.value.retryable
        with pytest.raises(NotFoundError) as missing:
            await client.get("job_none")
        assert missing.value.code == "job_not_found"
        assert isinstance(missing.value, MnemosError)
    async with AsyncClient("http://127.0.0.1:9") as nobody:
        with pytest.raises(UnreachableError) as gone:
            await nobody.submit("x", model=MODEL)
        assert (gone.value.code, gone.value.retryable) == ("unavailable", True)
