"""A loaded model that embeds or classifies texts, with its batcher."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgspec
import torch

from ....errors import InvalidInputError
from ....models.job import JobInput, JobOutput, ResumeState
from ...base import Generation, RuntimeStats
from ...pytorch_engine.answers import limit_of
from ...stacking.desk import RequestDesk
from ..hardware import memory_mb
from ..loading import LoadedCheckpoint
from ..task import Task
from .batcher import TextBatcher, TextRequest
from .model import PoolingModel
from .recipe import Recipe
from .requests import RequestReader


class PoolingSession:
    """Made and used on one event loop; `close` blocks and may be called in any thread.

    An answer comes in one piece; an interrupted job starts again.
    """

    def __init__(
        self, checkpoint: LoadedCheckpoint, model: PoolingModel, recipe: Recipe, task: Task,
        name: str, max_texts: int,
    ) -> None:  # fmt: skip
        self._name = name
        self._task = task
        self._device: torch.device = checkpoint.model.device
        limit = min(checkpoint.context_tokens, recipe.max_tokens or checkpoint.context_tokens)
        self._reader = RequestReader(checkpoint.tokenizer, name, task, limit, recipe.prefix)
        self._threads = ThreadPoolExecutor(1, thread_name_prefix="texts")
        self._loop = asyncio.get_running_loop()
        self._desk = RequestDesk(
            lambda deliver: TextBatcher(model.answer, deliver, name, max_texts)
        )
        self._batcher = self._desk.batcher

    @property
    def is_broken(self) -> bool:
        """Whether the device is lost."""
        return self._batcher.is_broken

    def stats(self) -> RuntimeStats:
        """A snapshot; from any thread."""
        return RuntimeStats(self._batcher.active, memory_mb(self._device), self._batcher.steps)

    async def answer(
        self, job_input: JobInput, resume: ResumeState | None
    ) -> AsyncGenerator[Generation, None]:
        """As BaseRuntime.generate; one piece, streamed as JSON."""
        began = time.monotonic()
        request = await self._loop.run_in_executor(self._threads, self._reader.read, job_input)
        await self._desk.compute(request)
        streamed = job_input.sampling.stream
        output, text = await self._loop.run_in_executor(
            self._threads, self._write, request, job_input.inputs is None, began, streamed
        )
        yield Generation(text if streamed else "", [], output)

    def close(self) -> None:
        """Fail what is open and free the model."""
        self._batcher.stop()
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _write(
        self, request: TextRequest, single: bool, began: float, streamed: bool
    ) -> tuple[JobOutput, str]:
        result = request.answers[0] if single else request.answers
        text = msgspec.json.encode(result)
        limit = limit_of(streamed=streamed)
        if len(text) > limit:
            raise InvalidInputError(
                f"the answer of {self._name} has more than {limit} bytes: send fewer "
                "inputs in a job"
            )
        metadata: dict[str, Any] = {
            "model": self._name,
            "runtime": "transformers",
            "task": self._task,
            "prompt_tokens": sum(map(len, request.items)),
        }
        if self._task == "embed":
            metadata["dimensions"] = len(request.answers[0] or ())
        return JobOutput(result=result, metadata=metadata, metrics=_metrics(request, began)), (
            text.decode()
        )


def _metrics(request: TextRequest, began: float) -> dict[str, Any]:
    started = request.started or request.submitted
    finished = request.finished or started
    return {
        "latency_ms": _ms(time.monotonic() - began),
        "queue_ms": _ms(started - request.submitted),
        "compute_ms": _ms(finished - started),
    }


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 2)
