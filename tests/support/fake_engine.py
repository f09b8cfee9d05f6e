"""An engine without a model: prompts are orders."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from typing import Any

from neuron.errors import EngineCrashedError, NeuronError
from neuron.models.job import JobInput, JobOutput, ResumeState
from neuron.models.runtime import RuntimeType
from neuron.runtimes.base import Generation


class FakeEngine:
    """Obeys "tokens N", "hang", "wait" (for `go`), "flow" (until `go`), "fail", "die N", "big N".

    "tokens" and "flow" go on behind what an earlier attempt had; "die" brings N tokens first;
    "big" answers with N letters and no tokens.
    """

    def __init__(self, owner: FakeEngines, name: str) -> None:
        self.owner = owner
        self.name = name
        self.pid: int | None = None
        self.load_seconds = 0.0
        self.memory_mb = owner.memory_mb.get(name, 1)
        self.runtime_started = False
        self.condemned: str | None = None
        self.running: list[str] = []
        self.asked: list[str] = []
        self.cancelled: list[str] = []
        self.stopped = False
        self._closed = asyncio.Event()

    @property
    def is_alive(self) -> bool:
        return self.pid is not None and not self._closed.is_set()

    async def start(self, timeout_seconds: float) -> None:
        self.owner.loads.append(self.name)
        self.owner.loading.set()
        await self.owner.load_gate.wait()
        if self.owner.runtime_error is not None:
            raise self.owner.runtime_error
        self.runtime_started = True
        if self.owner.load_error is not None:
            raise self.owner.load_error
        if errors := self.owner.load_errors.get(self.name):
            raise errors.pop(0)
        self.pid = len(self.owner.loads)
        self.load_seconds = self.owner.load_seconds

    async def generate(
        self, job_input: JobInput, resume: ResumeState | None = None
    ) -> AsyncGenerator[Generation, None]:
        order, _, argument = (job_input.prompt or "").partition(" ")
        self.asked.append(order)
        self.running.append(order)
        self.owner.peak = max(self.owner.peak, len(self.running))
        self.owner.started.set()
        finished = False
        had = len(resume.token_ids) if resume is not None else 0
        try:
            async for generation in self._obey(order, argument, had):
                finished = generation.output is not None
                yield generation
        finally:
            self.running.remove(order)
            if not finished:
                self.cancelled.append(order)

    async def _obey(self, order: str, argument: str, had: int) -> AsyncGenerator[Generation, None]:
        match order:
            case "hang":
                yield Generation("x", [0])
                await asyncio.Event().wait()
            case "wait":
                await self.owner.go.wait()
            case "fail":
                raise NeuronError("the engine was told to fail")
            case "bug":
                raise ZeroDivisionError("a bug in the engine's client")
            case "die":
                for index in range(int(argument or 0)):
                    yield Generation(f"t{index} ", [index])
                self.die()
                raise EngineCrashedError("the engine died; its last words: none", engine_jobs=1)
        if order == "big":
            yield Generation(output=JobOutput(result="x" * int(argument)))
            return
        if order == "flow":
            async for generation in self._flow(had):
                yield generation
            return
        count = int(argument or 1)
        for index in range(had, count):
            await asyncio.sleep(0)
            yield Generation(f"t{index} ", [index])
        output = JobOutput(
            result="".join(f"t{index} " for index in range(count)),
            metadata={
                "tokens_generated": count,
                "finish_reason": "stop",
                "resumed_tokens": had,
            },
            metrics={"latency_ms": 1.0},
        )
        yield Generation(output=output)

    async def _flow(self, count: int) -> AsyncGenerator[Generation, None]:
        had = count
        while not self.owner.go.is_set():
            yield Generation(f"t{count} ", [count])
            count += 1
            await asyncio.sleep(0.002)
        text = "".join(f"t{index} " for index in range(count))
        told = {"tokens_generated": count, "resumed_tokens": had}
        yield Generation(output=JobOutput(result=text, metadata=told))

    def condemn(self, reason: str) -> None:
        self.condemned = reason
        self.die()

    def die(self) -> None:
        """As after a SIGKILL."""
        self._closed.set()

    async def stop(self, grace_seconds: float = 5.0) -> None:
        self.stopped = True
        self._closed.set()

    async def wait_closed(self) -> None:
        if self.pid is not None:
            await self._closed.wait()


class FakeEngines:
    """The factory of fake engines, and what they have in common."""

    def __init__(self) -> None:
        self.made: list[FakeEngine] = []
        self.loads: list[str] = []
        self.load_gate = asyncio.Event()
        self.load_gate.set()
        self.loading = asyncio.Event()
        self.load_error: Exception | None = None
        self.load_errors: dict[str, list[Exception]] = {}
        """What the next loads of a model fail with, one after another; then they do not."""
        self.runtime_error: Exception | None = None
        self.memory_mb: dict[str, int] = {}
        self.load_seconds = 0.0
        """What engines say that their loading took."""
        self.go = asyncio.Event()
        self.started = asyncio.Event()
        self.peak = 0

    def __call__(
        self, runtime: RuntimeType, family: str, version: str, config: Mapping[str, Any]
    ) -> FakeEngine:
        engine = FakeEngine(self, f"{family}:{version}")
        self.made.append(engine)
        return engine

    @property
    def alive(self) -> list[FakeEngine]:
        return [engine for engine in self.made if engine.is_alive and not engine.stopped]
