"""Several answers to one request: seeds, order, what is told, and what a failure does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import pytest

from neuron.errors import InvalidInputError, NeuronError
from neuron.models.job import JobInput, JobOutput
from neuron.runtimes.base import Generation
from neuron.runtimes.choices import generate_choices

GOLDEN = 0x9E3779B97F4A7C15


def job(**parameters: Any) -> JobInput:
    return JobInput(prompt="Hi", parameters=parameters)


class Writer:
    """Answers with the seed, in two pieces, once all its copies have begun."""

    def __init__(self, copies: int) -> None:
        self.seeds: list[int | None] = []
        self.open = 0
        self.all_open = asyncio.Event()
        self._copies = copies

    async def generate(self, job_input: JobInput) -> AsyncGenerator[Generation, None]:
        seed = job_input.sampling.seed
        index = len(self.seeds)
        self.seeds.append(seed)
        assert job_input.sampling.n == 1
        self.open += 1
        if self.open == self._copies:
            self.all_open.set()
        try:
            await self.all_open.wait()
            yield Generation("a", [1])
            text = f"a{seed}"
            yield Generation(text[1:], [2], JobOutput(
                result=text,
                metadata={
                    "model": "m:1", "prompt_tokens": 7, "tokens_generated": 2 + index,
                    "finish_reason": "length" if index else "stop", "stop_reason": None,
                    "logprobs": [{"token_id": index}],
                },
                metrics={
                    "latency_ms": 100.0 + index, "queue_ms": 2.0 - index,
                    "first_token_latency_ms": 50.0 - index, "tokens_per_second": 1.0,
                },
            ))  # fmt: skip
        finally:
            self.open -= 1


async def only(generations: AsyncGenerator[Generation, None]) -> Generation:
    async with aclosing(generations):
        got = [generation async for generation in generations]
    assert len(got) == 1
    return got[0]


async def output_of(writer: Writer, job_input: JobInput) -> JobOutput:
    generation = await only(generate_choices(writer.generate, job_input))
    assert generation.output is not None
    return generation.output


async def test_the_choices_run_together_and_keep_their_order_and_seeds() -> None:
    writer = Writer(3)
    seed = 2**63 - 1
    output = await output_of(writer, job(n=3, seed=seed))
    seeds = [(seed + index * GOLDEN) % 2**63 for index in range(3)]
    assert writer.seeds == seeds
    assert seeds[0] == seed
    assert output.result == [f"a{one}" for one in seeds]


async def test_without_a_seed_every_choice_draws_its_own() -> None:
    writer = Writer(2)
    await output_of(writer, job(n=2))
    assert writer.seeds == [None, None]


async def test_the_output_tells_each_choice_and_the_sum() -> None:
    output = await output_of(Writer(2), job(n=2))
    assert output.metadata == {
        "model": "m:1",
        "prompt_tokens": 7,
        "tokens_generated": 5,
        "finish_reason": "stop",
        "stop_reason": None,
        "choices": [
            {
                "finish_reason": "stop", "stop_reason": None, "tokens_generated": 2,
                "logprobs": [{"token_id": 0}],
            },
            {
                "finish_reason": "length", "stop_reason": None, "tokens_generated": 3,
                "logprobs": [{"token_id": 1}],
            },
        ],
    }  # fmt: skip
    assert output.metrics["latency_ms"] == 101
    assert output.metrics["first_token_latency_ms"] == 49
    assert output.metrics["tokens_per_second"] == pytest.approx(5 / 0.1)


async def test_one_failure_ends_the_others_and_is_what_is_raised() -> None:
    writer = Writer(3)  # the third never comes: the two wait

    async def generate(job_input: JobInput) -> AsyncGenerator[Generation, None]:
        if len(writer.seeds) == 2:
            raise InvalidInputError("too long")
        async for generation in writer.generate(job_input):
            yield generation

    with pytest.raises(InvalidInputError, match="too long"):
        await only(generate_choices(generate, job(n=3)))
    assert len(writer.seeds) == 2
    assert writer.open == 0


async def test_cancelling_the_wait_cancels_all() -> None:
    both = asyncio.Barrier(3)
    closed: list[JobInput] = []

    async def generate(job_input: JobInput) -> AsyncGenerator[Generation, None]:
        await both.wait()
        try:
            await asyncio.Event().wait()
            yield Generation()
        finally:
            closed.append(job_input)

    async with asyncio.TaskGroup() as group:
        task = group.create_task(only(generate_choices(generate, job(n=2))))
        await both.wait()
        task.cancel()
    assert task.cancelled()
    assert len(closed) == 2


async def test_an_answer_without_an_end_is_an_error() -> None:
    async def generate(_: JobInput) -> AsyncGenerator[Generation, None]:
        yield Generation("a", [1])

    with pytest.raises(NeuronError, match="without an output"):
        await only(generate_choices(generate, job(n=2)))
