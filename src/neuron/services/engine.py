"""What an engine is to the services, and what makes two jobs share one."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any, NamedTuple, Protocol

import msgspec

from ..models.job import JobInput, ModelConfig, ResumeState
from ..models.runtime import RuntimeType
from ..runtimes.base import Generation
from .load_progress import OnProgress
from .model_loader import ModelInUse

STOP_GRACE_SECONDS = 5.0


class Engine(Protocol):
    """A model in a process; EngineClient is one."""

    @property
    def pid(self) -> int | None: ...

    @property
    def is_alive(self) -> bool: ...

    @property
    def runtime_started(self) -> bool: ...

    @property
    def load_seconds(self) -> float: ...

    @property
    def memory_mb(self) -> int: ...

    async def start(self, timeout_seconds: float) -> None: ...

    def generate(
        self, job_input: JobInput, resume: ResumeState | None = None
    ) -> AsyncGenerator[Generation, None]: ...

    def condemn(self, reason: str) -> None: ...

    async def stop(self, grace_seconds: float = STOP_GRACE_SECONDS) -> None: ...

    async def wait_closed(self) -> None: ...


class EngineKey(NamedTuple):
    """What makes two jobs share an engine."""

    family: str
    version: str
    runtime: RuntimeType
    config_json: str

    @classmethod
    def of(
        cls, model: ModelConfig, runtime: RuntimeType, more: Mapping[str, Any] | None = None
    ) -> EngineKey:
        """Return the engine that a job's model needs; `more` is for what its config leaves out."""
        if not more and not model.runtime_config:
            return cls(model.family, model.version, runtime, "{}")
        config = {**(more or {}), **model.runtime_config}
        text = msgspec.json.encode(config, order="deterministic").decode()
        return cls(model.family, model.version, runtime, text)

    @property
    def config(self) -> dict[str, Any]:
        """The runtime's configuration."""
        config: dict[str, Any] = msgspec.json.decode(self.config_json)
        return config

    @property
    def model(self) -> str:
        """The model's name, as people write it."""
        return f"{self.family}:{self.version}"


EngineFactory = Callable[[RuntimeType, str, str, Mapping[str, Any]], Engine]


class ModelSource(Protocol):
    """Who has models' files here, and keeps them here while they are used."""

    def using(
        self, family: str, version: str, on_progress: OnProgress
    ) -> AbstractAsyncContextManager[ModelInUse]: ...
