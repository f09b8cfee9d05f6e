"""An answer cut at any token and taken up again is the one that was never cut."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import Any

import pytest
from asking import Answer, collect, job

from neuron.models.job import JobInput, ResumeState
from neuron.runtimes.base import Generation
from neuron.runtimes.transformers_runtime import TransformersRuntime

PROMPT = "Grüße: 東京🙂"
SAMPLED = {"temperature": 1.0, "top_p": 0.95, "seed": 11}


async def pieces_of(
    runtime: TransformersRuntime, one: JobInput, resume: ResumeState | None = None
) -> list[Generation]:
    async with aclosing(runtime.generate(one, resume)) as generations:
        return [piece async for piece in generations]


def until_seam(pieces: list[Generation]) -> ResumeState:
    """What CORTEX has when the attempt ends behind these pieces."""
    return ResumeState(
        token_ids=[token for piece in pieces for token in piece.token_ids],
        text="".join(piece.text for piece in pieces),
    )


async def taken_up(
    runtime: TransformersRuntime, one: JobInput, had: ResumeState
) -> tuple[str, list[int], Answer]:
    text, tokens, output = answer = await collect(runtime, one, had)
    assert output.metadata["resumed_tokens"] == len(had.token_ids)
    return had.text + text, had.token_ids + tokens, answer


async def assert_seamless(
    runtime: TransformersRuntime, one: JobInput, pieces: list[Generation]
) -> None:
    """Take the answer up behind each of its pieces, all at once."""
    whole = until_seam(pieces)
    output = pieces[-1].output
    assert output is not None
    assert output.result == whole.text
    async with asyncio.TaskGroup() as group:
        tasks = [
            group.create_task(taken_up(runtime, one, until_seam(pieces[:kept])))
            for kept in range(1, len(pieces) + 1)
        ]
    for task in tasks:
        text, tokens, (_, _, ended) = task.result()
        assert (text, tokens) == (whole.text, whole.token_ids)
        assert ended.result == whole.text
        for told in ("tokens_generated", "finish_reason", "stop_reason", "prompt_tokens"):
            assert ended.metadata[told] == output.metadata[told]


@pytest.mark.parametrize(
    "parameters",
    [
        {"max_tokens": 60, "ignore_eos": True},
        {"max_tokens": 40, **SAMPLED},
        {"max_tokens": 40, **SAMPLED, "top_k": 20, "min_p": 0.01},
        {"max_tokens": 40, "repetition_penalty": 1.3, "frequency_penalty": 0.5},
        {"max_tokens": 40, **SAMPLED, "presence_penalty": 1.0, "frequency_penalty": 0.4},
        {"max_tokens": 30, "min_tokens": 30},
    ],
    ids=["greedy", "seeded", "filtered", "penalties", "seeded-penalties", "min-tokens"],
)
async def test_a_seam_at_any_token_is_not_to_be_seen(
    runtime: TransformersRuntime, parameters: dict[str, Any]
) -> None:
    one = job(PROMPT, **parameters)
    pieces = await pieces_of(runtime, one)
    assert len(pieces) > 20
    assert any(piece.token_ids and not piece.text for piece in pieces), "no character was cut"

    await assert_seamless(runtime, one, pieces)


async def test_a_stop_string_over_the_seam_ends_the_answer_where_it_would_have(
    runtime: TransformersRuntime,
) -> None:
    longer = job(PROMPT, max_tokens=40, ignore_eos=True)
    text = until_seam(await pieces_of(runtime, longer)).text
    stop = text[20:28]
    one = job(PROMPT, max_tokens=40, ignore_eos=True, stop=[stop, text[20:27] + "never"])

    pieces = await pieces_of(runtime, one)

    output = pieces[-1].output
    assert output is not None
    assert output.metadata["stop_reason"] == stop
    assert output.result == text[: text.index(stop)]
    await assert_seamless(runtime, one, pieces)


async def test_what_was_held_back_for_a_stop_string_that_did_not_come_is_said_behind_the_seam(
    runtime: TransformersRuntime,
) -> None:
    text = until_seam(await pieces_of(runtime, job(PROMPT, max_tokens=40))).text
    nearly = [text[start : start + 6] + "never" for start in (8, 14, 20)]
    one = job(PROMPT, max_tokens=40, stop=nearly)

    pieces = await pieces_of(runtime, one)

    assert until_seam(pieces).text == text
    await assert_seamless(runtime, one, pieces)


async def test_a_second_seam_is_like_the_first(runtime: TransformersRuntime) -> None:
    one = job(PROMPT, max_tokens=40, **SAMPLED)
    whole = until_seam(await pieces_of(runtime, one))
    first = until_seam((await pieces_of(runtime, one))[:7])
    for kept in (1, 5, 12):
        added = until_seam((await pieces_of(runtime, one, first))[:kept])
        both = ResumeState(
            token_ids=first.token_ids + added.token_ids, text=first.text + added.text
        )
        text, tokens, _ = await taken_up(runtime, one, both)
        assert (text, tokens) == (whole.text, whole.token_ids)


async def test_scores_are_those_of_the_whole_answer(runtime: TransformersRuntime) -> None:
    one = job(PROMPT, max_tokens=30, logprobs=2, **SAMPLED)
    pieces = await pieces_of(runtime, one)
    assert pieces[-1].output is not None
    scores = pieces[-1].output.metadata["logprobs"]
    await assert_seamless(runtime, one, pieces)
    for kept in (1, 9, len(pieces)):
        _, _, output = await collect(runtime, one, until_seam(pieces[:kept]))
        told = output.metadata["logprobs"]
        assert [each["token_id"] for each in told] == [each["token_id"] for each in scores]
        assert [each["logprob"] for each in told] == pytest.approx(
            [each["logprob"] for each in scores], abs=1e-4
        )
