"""Asking a runtime in tests, and gathering what it answers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from neuron.models.job import JobInput, JobOutput
from neuron.runtimes.base import BaseRuntime, Generation


def job(prompt: str, **parameters: Any) -> JobInput:
    """A greedy request for a short answer, unless told otherwise."""
    defaults = {"temperature": 0, "max_tokens": 24}
    return JobInput(prompt=prompt, parameters={**defaults, **parameters})


async def collect(
    generations: AsyncGenerator[Generation, None],
) -> tuple[str, list[int], JobOutput]:
    """The joined text, all tokens, and the output."""
    text, tokens = "", list[int]()
    async with aclosing(generations):
        async for piece in generations:
            text += piece.text
            tokens += piece.token_ids
            if piece.output is not None:
                return text, tokens, piece.output
    raise AssertionError("no output")


async def collect_all(
    runtime: BaseRuntime, jobs: list[JobInput]
) -> list[tuple[str, list[int], JobOutput]]:
    """What `collect` gives for each, all asked at once."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(collect(runtime.generate(one))) for one in jobs]
    return [task.result() for task in tasks]
