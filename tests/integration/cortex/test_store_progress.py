"""The behaviour of every store, part 7: a text answer goes on where it was cut short."""

from __future__ import annotations

import json
from typing import Any

import pytest
from cortex_tools import LEASE, StoreTools

from mnemos.cortex.grpc.outgoing import leased_job
from mnemos.cortex.records import Chunk, Fence, LeasedJob, Progress, Report
from mnemos.cortex.state_machine import JobState


def asked(**parameters: Any) -> str:
    return json.dumps({"prompt": "Hello", "parameters": {"stream": True, **parameters}})


async def send(
    tools: StoreTools, job_id: str, attempt: int, *pieces: tuple[str, list[int]]
) -> None:
    chunks = [
        Chunk(job_id, attempt, place, text, token_ids)
        for place, (text, token_ids) in enumerate(pieces)
    ]
    [ack] = await tools.store.append_chunks("wrk_a", chunks)
    assert (ack.verdict, ack.next_sequence) == (Fence.ACCEPTED, len(pieces))


async def next_attempt(tools: StoreTools, **asked: Any) -> LeasedJob:
    """Let the lease run out and claim the job again."""
    tools.clock.turn(LEASE)
    await tools.store.reap()
    tools.clock.turn(300)
    await tools.store.promote_due()
    [leased] = await tools.claim(**asked)
    return leased


async def kinds(tools: StoreTools, job_id: str) -> list[str]:
    page = await tools.store.read_events(job_id, 0, 1000)
    return [event.kind for event in page.events]


async def test_the_next_attempt_is_given_all_tokens_and_the_text_readers_have(
    tools: StoreTools,
) -> None:
    job_id = await tools.hold(input=asked())
    await send(tools, job_id, 1, ("He", [1, 2]), ("", [3]), ("llo\u00e9", [4]))

    second = await next_attempt(tools)

    assert second.progress == Progress([1, 2, 3, 4], "Helloé")
    told = leased_job(second).resume
    assert (list(told.token_ids), told.text) == ([1, 2, 3, 4], "Helloé")
    assert "restart" not in await kinds(tools, job_id)


async def test_each_attempt_goes_on_from_the_last_seam(tools: StoreTools) -> None:
    job_id = await tools.hold(input=asked())
    await send(tools, job_id, 1, ("a", [1]))
    await next_attempt(tools)
    await tools.store.release("wrk_a", [tools.handed_back(job_id, 2)])
    [third] = await tools.claim()
    assert third.progress == Progress([1], "a"), "the second brought nothing of its own"
    await send(tools, job_id, 3, ("b", [2]), ("", []))
    fourth = await next_attempt(tools)
    assert fourth.progress == Progress([1, 2], "ab")
    assert "restart" not in await kinds(tools, job_id)


async def test_a_repeated_request_brings_the_progress_again(tools: StoreTools) -> None:
    job_id = await tools.hold(input=asked())
    await send(tools, job_id, 1, ("a", [1]))
    await next_attempt(tools, request_id="r1")
    [again] = await tools.claim(request_id="r1")
    assert again.progress == Progress([1], "a")


async def test_without_tokens_there_is_nothing_to_go_on_from(tools: StoreTools) -> None:
    job_id = await tools.hold(input=asked())
    assert (await next_attempt(tools)).progress is None
    assert "restart" not in await kinds(tools, job_id)


@pytest.mark.parametrize(
    "job",
    [
        {"input": asked(json_schema={"type": "object"})},
        {"input": asked(n=2)},
        {"runtime": "pytorch"},
    ],
    ids=["guided", "choices", "custom"],
)
async def test_what_cannot_be_taken_up_starts_over_and_says_so_once(
    tools: StoreTools, job: dict[str, Any]
) -> None:
    await tools.register(runtimes=("transformers", "pytorch"))
    job_id = await tools.submit(**job)
    await tools.claim()
    await send(tools, job_id, 1, ("{", [1]))

    second, third = [await next_attempt(tools) for _ in range(2)]

    assert second.progress is None
    assert third.progress is None
    assert (await kinds(tools, job_id)).count("restart") == 1


async def test_a_retry_by_hand_starts_anew_whoever_streamed_last(tools: StoreTools) -> None:
    job_id = await tools.hold(input=asked(), max_retries=1)
    await send(tools, job_id, 1, ("a", [1]))
    await next_attempt(tools)
    report = Report(job_id=job_id, attempt=2, status=JobState.FAILED, error="broken")
    await tools.store.report("wrk_a", [report])
    await tools.store.retry_job(job_id)

    [leased] = await tools.claim()

    assert (leased.job.attempt, leased.progress) == (3, None)
    assert (await kinds(tools, job_id)).count("restart") == 1
    await send(tools, job_id, 3, ("b", [2]))
    assert (await next_attempt(tools)).progress == Progress([2], "b")
    assert (await kinds(tools, job_id)).count("restart") == 1


async def test_an_answer_without_room_for_a_job_s_tokens_leaves_the_job(tools: StoreTools) -> None:
    first, second = [await tools.hold(input=asked()) for _ in range(2)]
    for job_id in (first, second):
        await send(tools, job_id, 1, ("é" * 10, list(range(10))))
        await tools.store.release("wrk_a", [tools.handed_back(job_id, 1)])
    bare = len(asked()) + len("{}{}")
    progress = 2 * 10 + 5 * 10

    tight = await tools.claim(max_jobs=2, max_bytes=2 * (bare + progress) - 1)

    assert [one.job.job_id for one in tight] == [first]
    await tools.store.release("wrk_a", [tools.handed_back(first, 2)])
    wide = await tools.claim(max_jobs=2, max_bytes=2 * (bare + progress))
    assert len(wide) == 2


async def test_only_a_streamed_job_is_streaming(tools: StoreTools) -> None:
    quiet = await tools.hold(input=asked(stream=False))
    streamed = await tools.hold(input=asked())
    for job_id in (quiet, streamed):
        await send(tools, job_id, 1, ("a", [1]))
    assert (await tools.store.get_job(quiet)).status is JobState.ACQUIRED
    assert (await tools.store.get_job(streamed)).status is JobState.STREAMING
    assert "token" in await kinds(tools, quiet)
