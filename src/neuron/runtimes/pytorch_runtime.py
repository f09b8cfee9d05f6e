"""Custom PyTorch models: torch.export, TorchScript, or safetensors with an installed class."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncGenerator
from typing import Any

import torch

from ..errors import NeuronError
from ..models.job import JobInput, JobOutput, ResumeState
from ..models.runtime import PyTorchConfig, RuntimeType
from .base import BaseRuntime, EngineSettings, Generation, RuntimeStats
from .pytorch_engine.answers import AnswerWriter
from .pytorch_engine.batcher import RowBatcher, RowRequest
from .pytorch_engine.calling import ModelCall
from .pytorch_engine.loading import LoadedModel, load_model
from .pytorch_engine.probe import probe
from .pytorch_engine.requests import RequestReader
from .pytorch_engine.threads import Threads
from .runtime_config import check_config
from .stacking.desk import RequestDesk
from .transformers_engine.hardware import memory_mb, respect_cpu_quota

logger = logging.getLogger(__name__)


class _Session:
    """A loaded model with its batcher, and threads that read inputs and write answers."""

    def __init__(
        self, model: LoadedModel, call: ModelCall, reader: RequestReader, rows: int, threads: int
    ) -> None:
        self.model = model
        self.reader = reader
        self.writer = AnswerWriter(model.name, model.signature)
        self.threads = Threads(threads)
        self.rows_per_call = rows
        self.desk = RequestDesk(lambda deliver: RowBatcher(call, deliver, model.name, rows))
        self.batcher = self.desk.batcher


class PyTorchRuntime(BaseRuntime):
    """One custom model; rows of concurrent jobs share calls of up to batch_size rows.

    An answer comes in one piece; an interrupted job starts again.
    """

    def __init__(self, settings: EngineSettings, engram_client: None = None) -> None:
        super().__init__(settings, engram_client)
        self._session: _Session | None = None
        self._loaded: tuple[str, dict[str, Any]] | None = None

    async def load_model(self, family: str, version: str, config: dict[str, Any]) -> None:
        wanted = (f"{family}:{version}", dict(config))
        if self._session is not None and self._loaded == wanted:
            return
        parsed = check_config(RuntimeType.PYTORCH, config, self.settings)
        assert isinstance(parsed, PyTorchConfig)
        await self.unload_model()
        folder = self.settings.model_cache_dir / family / version

        def load() -> tuple[LoadedModel, ModelCall, RequestReader, int]:
            respect_cpu_quota()
            model = load_model(folder, wanted[0], parsed, self.settings)
            reader = RequestReader(folder, wanted[0], model.signature)
            call = ModelCall(model)
            limit = min(parsed.batch_size, self.settings.max_batch_size)
            rows = probe(model, call, parsed, limit)
            return model, call, reader, rows

        model, call, reader, rows = await asyncio.to_thread(load)
        self._session = _Session(model, call, reader, rows, max(1, parsed.num_workers))
        self._loaded = wanted
        logger.info(
            "loaded %s: %s on %s, up to %d rows a call", wanted[0], model.kind, model.device, rows
        )

    async def generate(
        self, job_input: JobInput, resume: ResumeState | None = None
    ) -> AsyncGenerator[Generation, None]:
        session = self._session
        if session is None:
            raise NeuronError("no model is loaded")
        began = time.monotonic()
        rows = await session.threads.call(session.reader.read, job_input)
        request: RowRequest = RowRequest(rows)
        await session.desk.compute(request)
        streamed = job_input.sampling.stream
        output = await session.threads.call(
            session.writer.write, request, job_input.inputs is None, began, streamed
        )
        text = _as_text(output.result) if streamed else ""
        yield Generation(text, [], output)

    async def execute_stream(self, job_input: JobInput) -> AsyncGenerator[str, None]:
        """The result as JSON, in one piece."""
        output: JobOutput = await self.execute(job_input)
        yield _as_text(output.result)

    async def unload_model(self) -> None:
        session, self._session, self._loaded = self._session, None, None
        if session is None:
            return
        await asyncio.to_thread(session.batcher.stop)
        session.threads.close()
        on_gpu = session.model.device.type == "cuda"
        del session
        if on_gpu:
            torch.cuda.empty_cache()

    def is_model_loaded(self) -> bool:
        return self._session is not None and not self._session.batcher.is_broken

    def stats(self) -> RuntimeStats:
        session = self._session
        if session is None:
            return RuntimeStats()
        batcher = session.batcher
        return RuntimeStats(batcher.active, memory_mb(session.model.device), batcher.steps)


def _as_text(result: Any) -> str:
    return json.dumps(result, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
