"""Asking an engine or a runtime, and what it said."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any, Protocol

from neuron.models.job import JobInput, JobOutput, ResumeState
from neuron.runtimes.base import Generation

Answer = tuple[str, list[int], JobOutput]
"""The pieces' texts and tokens, joined, and the output."""


class Answers(Protocol):
    """An EngineClient or a runtime."""

    def generate(
        self, job_input: JobInput, resume: ResumeState | None = None
    ) -> AsyncGenerator[Generation, None]: ...


def job(prompt: str, **parameters: Any) -> JobInput:
    """A greedy request for 24 tokens at most, unless `parameters` say otherwise."""
    return JobInput(prompt=prompt, parameters={"temperature": 0, "max_tokens": 24, **parameters})


async def collect(runtime: Answers, one: JobInput, resume: ResumeState | None = None) -> Answer:
    """Ask and wait for the end."""
    text, tokens = "", list[int]()
    async with aclosing(runtime.generate(one, resume)) as generations:
        async for piece in generations:
            text += piece.text
            tokens += piece.token_ids
            if piece.output is not None:
                return text, tokens, piece.output
    raise AssertionError("no output")


async def collect_all(runtime: Answers, jobs: Sequence[JobInput]) -> list[Answer]:
    """Ask all at once."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(collect(runtime, one)) for one in jobs]
    return [task.result() for task in tasks]
