"""Several answers to one request (`parameters.n`), alike on every runtime that generates text."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from typing import Any

from ..errors import NeuronError
from ..models.job import JobInput, JobOutput
from .base import Generation

GenerateOne = Callable[[JobInput], AsyncGenerator[Generation, None]]

_GOLDEN = 0x9E3779B97F4A7C15
_SEEDS = 2**63
_OF_A_CHOICE = ("finish_reason", "stop_reason", "tokens_generated", "logprobs")


async def generate_choices(
    generate_one: GenerateOne, job_input: JobInput
) -> AsyncGenerator[Generation, None]:
    """Answer `n` times at once; one generation, with an output whose result is the list of texts.

    Choice 0 keeps the request's seed, where it has one, so it is the answer that n = 1 gives.
    The first choice to fail cancels the others. Cancelling the caller's wait cancels all.

    Raises:
        NeuronError: what the failed choice raised.
    """
    copies = [_copy(job_input, index) for index in range(job_input.sampling.n)]
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(_whole(generate_one(copy))) for copy in copies]
    except* NeuronError as failures:
        failure = failures.exceptions[0]
    else:
        yield Generation(output=_composed([task.result() for task in tasks]))
        return
    raise failure


def _copy(job_input: JobInput, index: int) -> JobInput:
    parameters = {**job_input.parameters, "n": 1}
    if (seed := job_input.sampling.seed) is not None:
        parameters["seed"] = (seed + index * _GOLDEN) % _SEEDS
    return job_input.model_copy(update={"parameters": parameters})


async def _whole(generations: AsyncGenerator[Generation, None]) -> JobOutput:
    async with aclosing(generations):
        async for generation in generations:
            if generation.output is not None:
                return generation.output
    raise NeuronError("the runtime ended an answer without an output")


def _composed(outputs: Sequence[JobOutput]) -> JobOutput:
    first = outputs[0].metadata
    choices = [
        {name: output.metadata[name] for name in _OF_A_CHOICE if name in output.metadata}
        for output in outputs
    ]
    tokens = sum(choice["tokens_generated"] for choice in choices)
    metadata = {name: value for name, value in first.items() if name != "logprobs"}
    return JobOutput(
        result=[output.result for output in outputs],
        metadata={**metadata, "tokens_generated": tokens, "choices": choices},
        metrics=_metrics([output.metrics for output in outputs], tokens),
    )


def _metrics(metrics: Sequence[dict[str, Any]], tokens: int) -> dict[str, Any]:
    """Those of the slowest choice; the first token is the earliest, the pace that of all."""
    slowest = max(metrics, key=lambda one: one["latency_ms"])
    first_token = min(one["first_token_latency_ms"] for one in metrics)
    busy = slowest["latency_ms"] - min(one["queue_ms"] for one in metrics)
    return {
        **slowest,
        "first_token_latency_ms": first_token,
        "tokens_per_second": round(tokens / busy * 1000, 2) if busy > 0 else 0.0,
    }
