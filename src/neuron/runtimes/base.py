"""What every runtime can do, whatever engine it drives.

Nothing here imports an engine: the worker reads these names too.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from ..models.job import JobInput, JobOutput, ResumeState
from ..models.runtime import RuntimeType


class EngineSettings(BaseModel):
    """What the operator decides about engines; no job can change it."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    model_cache_dir: Path
    """A model's files lie in model_cache_dir/family/version."""
    allow_remote_code: bool = False
    """Whether a model's own Python code may run (NEURON_ALLOW_REMOTE_CODE)."""
    allow_pickle: bool = False
    """Whether pickled models may be loaded, which can run any code (NEURON_ALLOW_PICKLE)."""
    max_batch_size: int = Field(default=32, ge=1)
    """The most requests that are generated together; more wait in the engine."""
    python: dict[RuntimeType, str] = Field(default_factory=dict)
    """The interpreter that runs an engine, where it is not the worker's own."""
    log_level: str = "INFO"


@dataclass(frozen=True, slots=True)
class Generation:
    """What was generated since the last one; the last one carries the output.

    The texts of all generations of a request, joined, are the answer. Text may lag behind the
    tokens: half a character, or what may become a stop string, is held back.
    """

    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    output: JobOutput | None = None


@dataclass(frozen=True, slots=True)
class RuntimeStats:
    """How a runtime is, now."""

    active_requests: int = 0
    """Requests in the engine; a cancelled one counts as long as something is computed for it."""
    memory_mb: int = 0
    steps: int = 0
    """Grows with every piece of work: a call of the model, a scheduler's round, a chunk of a long
    prompt. An engine that has requests and whose steps stand still is taken for hung and ended."""


class BaseRuntime(ABC):
    """One model on one engine; many requests may run at once.

    Every error that leaves a runtime is a `NeuronError`. A runtime finds its model's files in the
    cache and is given no storage client: an engine process holds no credentials.
    """

    def __init__(self, settings: EngineSettings, engram_client: None = None) -> None:
        self.settings = settings
        self.engram_client = engram_client

    @abstractmethod
    async def load_model(self, family: str, version: str, config: dict[str, Any]) -> None:
        """Load a model from the cache, in place of any other; nothing if it is loaded already.

        On failure or cancellation nothing stays loaded.
        """

    @abstractmethod
    def generate(
        self, job_input: JobInput, resume: ResumeState | None = None
    ) -> AsyncGenerator[Generation, None]:
        """Answer, piece by piece; the last piece has `output`.

        With `resume` generation goes on after those tokens: the pieces hold what is new, the
        output covers everything. Closing the generator stops the work and frees its place.
        """

    async def execute(self, job_input: JobInput) -> JobOutput:
        """Answer in one piece."""
        async with aclosing(self.generate(job_input)) as generations:
            async for generation in generations:
                if generation.output is not None:
                    return generation.output
        raise RuntimeError("the runtime ended a generation without an output")

    async def execute_stream(self, job_input: JobInput) -> AsyncGenerator[str, None]:
        """The answer's text as it is generated; joined, the pieces are the result."""
        async with aclosing(self.generate(job_input)) as generations:
            async for generation in generations:
                if generation.text:
                    yield generation.text

    @abstractmethod
    async def unload_model(self) -> None:
        """Stop all requests and free the model's memory; nothing if none is loaded."""

    @abstractmethod
    def is_model_loaded(self) -> bool:
        """Whether requests can be answered."""

    @abstractmethod
    def stats(self) -> RuntimeStats:
        """A snapshot; safe to call from any thread, never blocks."""
