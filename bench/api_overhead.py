"""Streaming chats over HTTP, through CORTEX and NEURON, against the engine spoken to directly.

Both sides run the same model in the same kind of engine process, on the same prompts, and never at
once: the other side's engine is up, idle, while one is measured. What the system adds to the time
to the first token is told of chats that come one after another, what it costs in pace of chats that
come at once. The HTTP client's own work counts as the system's.
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import httpx2

from neuron.models.job import JobInput
from neuron.models.runtime import RuntimeType
from neuron.runtimes.base import EngineSettings
from neuron.runtimes.engine_client import EngineClient

from .report import Row
from .system import MODEL, smollm2_system

SMALL = bool(os.environ.get("BENCH_SMALL"))
CHATS, TOKENS_OF_ONE = (10 if SMALL else 40), 8
STREAMS, TOKENS, REPEATS = 8, 96, (2 if SMALL else 5)
MOST_ADDED_MS, LEAST_PACE = 15.0, 0.97
_LOAD_SECONDS = 120.0


def run() -> list[Row]:
    """Return both times to the first token, both paces, and what lies between them."""
    with smollm2_system(max_concurrent_jobs=STREAMS, log_level="INFO") as stack:
        return asyncio.run(_measure(f"{stack.cortex_url}/v1", stack.root / "cache"))


async def _measure(url: str, cache: Path) -> list[Row]:
    family, version = MODEL.split(":")
    settings = EngineSettings(model_cache_dir=cache, max_batch_size=STREAMS)
    engine = EngineClient(RuntimeType.TRANSFORMERS, family, version, {}, settings)
    await engine.start(_LOAD_SECONDS)
    try:
        async with httpx2.AsyncClient(base_url=url, timeout=120) as http:
            sides: dict[str, Side] = {"engine": Engine(engine), "system": Api(http)}
            return [*await first_tokens(sides), *await paces(sides)]
    finally:
        await engine.stop()


class Engine:
    """Chats with an engine process of the bench's own."""

    def __init__(self, client: EngineClient) -> None:
        self._client = client

    async def texts(self, prompt: str, tokens: int) -> AsyncIterator[str]:
        """Yield an answer of so many tokens as it is drawn."""
        asked = JobInput.model_validate(
            {
                "messages": [{"role": "user", "content": prompt}],
                "parameters": {**_greedy(tokens), "stream": True},
            }
        )
        async with aclosing(self._client.generate(asked)) as generations:
            async for generation in generations:
                yield generation.text


class Api:
    """Chats as OpenAI's clients send them."""

    def __init__(self, http: httpx2.AsyncClient) -> None:
        self._http = http

    async def texts(self, prompt: str, tokens: int) -> AsyncIterator[str]:
        """Yield an answer of so many tokens as it arrives. An error event is a KeyError."""
        messages = [{"role": "user", "content": prompt}]
        body = {"model": MODEL, "messages": messages, "stream": True, **_greedy(tokens)}
        async with self._http.stream("POST", "/chat/completions", json=body) as answer:
            answer.raise_for_status()
            async for line in answer.aiter_lines():
                if line.startswith("data: {"):
                    [choice] = json.loads(line.removeprefix("data: "))["choices"]
                    yield choice["delta"].get("content") or ""


Side = Engine | Api


async def first_tokens(sides: dict[str, Side]) -> list[Row]:
    """Chats one after another, each on both sides, in turns."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for index in range(CHATS + 3):
        order = list(sides.items())
        for name, side in order if index % 2 else reversed(order):
            seconds[name].append(await _first_token(side, _prompt(index)))
    warm = {name: [1000 * each for each in values[3:]] for name, values in seconds.items()}
    engine, system = (statistics.median(warm[name]) for name in ("engine", "system"))
    added = statistics.median(b - a for a, b in zip(warm["engine"], warm["system"], strict=True))
    goal = f"at most {MOST_ADDED_MS:g}"
    return [
        Row("first token, engine alone", engine, "ms", _spread(warm["engine"])),
        Row("first token, over HTTP", system, "ms", _spread(warm["system"])),
        Row("added, p50", added, "ms", goal, at_most=MOST_ADDED_MS),
    ]


async def paces(sides: dict[str, Side]) -> list[Row]:
    """Several chats at once, on one side after the other."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for repeat in range(REPEATS + 1):
        for name, side in sides.items():
            seconds[name].append(await _all(side, repeat))
    engine, system = (
        STREAMS * TOKENS / statistics.median(seconds[name][1:]) for name in ("engine", "system")
    )
    return [
        Row(f"{STREAMS} streams, engine alone", engine, "t/s"),
        Row(f"{STREAMS} streams, over HTTP", system, "t/s"),
        Row("ratio", system / engine, "x", f"at least {LEAST_PACE}", LEAST_PACE),
    ]


async def _first_token(side: Side, prompt: str) -> float:
    """The seconds to the first text; the rest of the answer is waited for."""
    began, first = time.monotonic(), 0.0
    async for text in side.texts(prompt, TOKENS_OF_ONE):
        if text and not first:
            first = time.monotonic() - began
    assert first
    return first


async def _all(side: Side, repeat: int) -> float:
    """The seconds until all streams of a repeat have ended."""
    began = time.monotonic()
    async with asyncio.TaskGroup() as group:
        for index in range(STREAMS):
            group.create_task(_read(side, _prompt(1000 + repeat * STREAMS + index)))
    return time.monotonic() - began


async def _read(side: Side, prompt: str) -> None:
    text = "".join([text async for text in side.texts(prompt, TOKENS)])
    assert text


def _greedy(tokens: int) -> dict[str, Any]:
    return {"max_tokens": tokens, "temperature": 0, "ignore_eos": True}


def _prompt(index: int) -> str:
    return f"Tell me a story about the number {index}."


def _spread(milliseconds: list[float]) -> str:
    return f"{min(milliseconds):.0f} to {max(milliseconds):.0f} ms"
