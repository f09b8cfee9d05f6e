"""No model at all: a prompt comes back word by word, to measure the path that every job takes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Mapping
from typing import Any

from ..errors import InvalidInputError, NeuronError
from ..models.job import JobInput, JobOutput, ResumeState
from ..models.runtime import EchoConfig, RuntimeType
from .base import BaseRuntime, EngineSettings, Generation, RuntimeStats
from .choices import generate_choices
from .runtime_config import check_config

MAX_TOKENS = 1_000_000
BURST_TOKENS = 256
"""Tokens that come together when no time lies between them."""
_NOT_ECHOED = (
    "json_schema", "regex", "choice", "logprobs", "adapter", "target", "stop", "prompt_logprobs",
    "logit_bias", "tools",
)  # fmt: skip


class EchoRuntime(BaseRuntime):
    """Answers with the prompt's words, one token a word, round and round up to `max_tokens`.

    Without `max_tokens` every word comes once. A token's id is its place in the answer, so an
    answer can be taken up anywhere. It needs no files and holds no memory.
    """

    def __init__(self, settings: EngineSettings, engram_client: None = None) -> None:
        super().__init__(settings, engram_client)
        self._config: EchoConfig | None = None
        self._active = 0
        self._steps = 0

    async def load_model(self, family: str, version: str, config: Mapping[str, Any]) -> None:
        parsed = check_config(RuntimeType.ECHO, config, self.settings)
        assert isinstance(parsed, EchoConfig)
        self._config = parsed

    def generate(
        self, job_input: JobInput, resume: ResumeState | None = None
    ) -> AsyncGenerator[Generation, None]:
        if self._config is None:
            raise NeuronError("no model is loaded")
        if job_input.parameters.get("n", 1) > 1:
            return generate_choices(lambda one: self._answer(one, 0), job_input)
        return self._answer(job_input, len(resume.token_ids) if resume else 0)

    async def unload_model(self) -> None:
        self._config = None

    def is_model_loaded(self) -> bool:
        return self._config is not None

    def stats(self) -> RuntimeStats:
        return RuntimeStats(active_requests=self._active, steps=self._steps)

    async def _answer(self, job_input: JobInput, done: int) -> AsyncGenerator[Generation, None]:
        assert self._config is not None
        echo = _Echo(job_input, done)
        seconds = self._config.token_seconds
        burst = 1 if seconds else BURST_TOKENS
        self._active += 1
        try:
            while echo.left > burst:
                self._steps += 1
                yield Generation(*echo.take(burst))
                await asyncio.sleep(seconds)
            self._steps += 1
            yield Generation(*echo.take(echo.left), echo.output())
        finally:
            self._active -= 1


class _Echo:
    """One answer on its way; `done` tokens of it came from an earlier attempt."""

    def __init__(self, job_input: JobInput, done: int) -> None:
        _check(job_input)
        self._began_at = time.time()
        self._began = time.monotonic()
        self._words = _text_of(job_input).split()
        asked = job_input.parameters.get("max_tokens")
        self._reason = "stop" if asked is None else "length"
        self._count = len(self._words) if asked is None else asked * bool(self._words)
        self._resumed = done
        self._next = done

    @property
    def left(self) -> int:
        """How many tokens are still to come."""
        return max(0, self._count - self._next)

    def take(self, count: int) -> tuple[str, list[int]]:
        """Return the next tokens' text and ids."""
        first, self._next = self._next, self._next + count
        gap = " " if first and count else ""
        return gap + self._text(first, self._next), list(range(first, self._next))

    def output(self) -> JobOutput:
        """Return the whole answer."""
        latency_ms = round(1000 * (time.monotonic() - self._began), 3)
        return JobOutput(
            result=self._text(0, self._next),
            metadata={
                "prompt_tokens": len(self._words),
                "tokens_generated": self._next,
                "finish_reason": self._reason,
                "resumed_tokens": self._resumed,
            },
            metrics={
                "latency_ms": latency_ms,
                "first_token_latency_ms": 0.0,
                "queue_ms": 0.0,
                "began_at": self._began_at,
            },
        )

    def _text(self, first: int, last: int) -> str:
        words = self._words
        return " ".join(words[place % len(words)] for place in range(first, last))


def _check(job_input: JobInput) -> None:
    asked = job_input.parameters
    if not_echoed := [name for name in _NOT_ECHOED if asked.get(name) not in (None, [], {})]:
        raise InvalidInputError(f"{not_echoed[0]}: the echo runtime runs no model; leave it out")
    if asked.get("max_tokens", 0) > MAX_TOKENS:
        raise InvalidInputError(f"max_tokens: the echo runtime gives at most {MAX_TOKENS}")


def _text_of(job_input: JobInput) -> str:
    """The prompt, or else what was said last."""
    if job_input.prompt is not None:
        return job_input.prompt
    if job_input.messages:
        return job_input.messages[-1].content
    raise InvalidInputError("the echo runtime needs a prompt or messages")
