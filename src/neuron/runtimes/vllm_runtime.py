"""vLLM: continuous batching by AsyncLLM, whose processes live and die with this one."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import AsyncGenerator
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import EngineCrashedError, NeuronError
from ..models.job import JobInput, ResumeState
from ..models.runtime import RuntimeType, VLLMConfig
from .base import BaseRuntime, EngineSettings, Generation, RuntimeStats
from .choices import generate_choices
from .runtime_config import check_config
from .vllm_engine.children import ChildFailures, adopt_children
from .vllm_engine.failures import load_error
from .vllm_engine.scratch import Scratch

if TYPE_CHECKING:
    from .vllm_engine.engine import VLLMEngine

logger = logging.getLogger(__name__)

# The kernel ends a child when the thread that started it ends: this one never does.
_spawner = ThreadPoolExecutor(1, thread_name_prefix="vllm-spawner")
_WATCH_SECONDS = 1.0
_FAREWELL_SECONDS = 2.0
_EXIT_CORE_DEAD = 6


class VLLMRuntime(BaseRuntime):
    """One model in vLLM; as many requests at once as `max_num_seqs` says.

    Sampled answers depend on vLLM's own sampler: a seed gives the same answer again, but not the
    one that another runtime gives, and a resumed answer goes on with a sequence of its own.
    A temperature between 0 and 0.01 is 0.01 there.
    """

    def __init__(self, settings: EngineSettings) -> None:
        super().__init__(settings)
        self._engine: VLLMEngine | None = None
        self._loaded: tuple[str, dict[str, Any]] | None = None
        self._failures: ChildFailures | None = None
        self._scratch: Scratch | None = None
        self._tokenizing = ThreadPoolExecutor(1, thread_name_prefix="tokenizer")
        self._watch: asyncio.TimerHandle | None = None
        self._active = 0

    async def load_model(self, family: str, version: str, config: dict[str, Any]) -> None:
        wanted = (f"{family}:{version}", dict(config))
        if self._engine is not None and self._loaded == wanted:
            return
        parsed = check_config(RuntimeType.VLLM, config, self.settings)
        assert isinstance(parsed, VLLMConfig)
        await self.unload_model()
        folder = self.settings.model_cache_dir / family / version
        loop = asyncio.get_running_loop()
        loading = loop.run_in_executor(_spawner, self._open, folder, wanted[0], parsed)
        try:
            engine = await asyncio.shield(loading)
        except asyncio.CancelledError:
            loading.add_done_callback(self._close_unwanted)
            raise
        await self._try_out(engine)
        self._engine, self._loaded = engine, wanted
        self._watch = loop.call_later(_WATCH_SECONDS, self._check_core)
        logger.info(
            "loaded %s: %s on %s", wanted[0], engine.dtype, "cpu" if engine.is_cpu else "gpu"
        )

    async def generate(
        self, job_input: JobInput, resume: ResumeState | None = None
    ) -> AsyncGenerator[Generation, None]:
        if job_input.sampling.n > 1:
            answers = generate_choices(self._generate_one, job_input)
        else:
            answers = self._generate_one(job_input, resume)
        async with aclosing(answers):
            async for generation in answers:
                yield generation

    async def _generate_one(
        self, job_input: JobInput, resume: ResumeState | None = None
    ) -> AsyncGenerator[Generation, None]:
        engine = self._engine
        if engine is None:
            raise NeuronError("no model is loaded")
        self._active += 1
        try:
            request = await asyncio.get_running_loop().run_in_executor(
                self._tokenizing, engine.prepare, job_input, resume
            )
            async with aclosing(request.answer()) as generations:
                async for generation in generations:
                    yield generation
        except EngineCrashedError:
            if self._engine is not engine:
                raise NeuronError(f"{engine.name} was unloaded") from None
            raise
        finally:
            self._active -= 1

    async def unload_model(self) -> None:
        engine, self._engine, self._loaded = self._engine, None, None
        if self._watch is not None:
            self._watch.cancel()
        if engine is not None:
            await asyncio.get_running_loop().run_in_executor(_spawner, self._close, engine)

    def is_model_loaded(self) -> bool:
        return self._engine is not None and not self._engine.is_dead

    def stats(self) -> RuntimeStats:
        engine = self._engine
        if engine is None:
            return RuntimeStats()
        return RuntimeStats(self._active, engine.memory_mb(), engine.rounds)

    def _open(self, folder: Path, name: str, config: VLLMConfig) -> VLLMEngine:
        if self._failures is None:
            adopt_children(self.settings.log_level)
            self._failures = ChildFailures()
        self._failures.forget()
        self._scratch = Scratch()
        try:
            from .vllm_engine.engine import VLLMEngine  # vllm itself: first what is above

            cache = self.settings.model_cache_dir
            engine = VLLMEngine(folder, name, config, cache, self._failures, self._tokenizing)
        except Exception as error:
            self._scratch.clear()
            raise load_error(name, error, self._failures.first()) from error
        self._scratch.note_shared_memory()
        return engine

    async def _try_out(self, engine: VLLMEngine) -> None:
        assert self._failures is not None
        try:
            await engine.try_out()
        except BaseException as error:
            _spawner.submit(self._close, engine)
            if isinstance(error, Exception):
                raise load_error(engine.name, error, self._failures.first()) from error
            raise
        self._failures.forget()

    def _close(self, engine: VLLMEngine) -> None:
        engine.close()
        if self._scratch is not None:
            self._scratch.clear()

    def _close_unwanted(self, loading: asyncio.Future[VLLMEngine]) -> None:
        if not loading.cancelled() and loading.exception() is None:
            _spawner.submit(self._close, loading.result())

    def _check_core(self) -> None:
        """An engine whose core is dead must not wait for a request to find that out."""
        engine = self._engine
        if engine is None:
            return
        loop = asyncio.get_running_loop()
        if engine.is_dead:
            # Requests hear of it first; the engine process ends with them.
            self._watch = loop.call_later(_FAREWELL_SECONDS, self._end, engine.death().message)
        else:
            self._watch = loop.call_later(_WATCH_SECONDS, self._check_core)

    def _end(self, reason: str) -> None:
        sys.stderr.write(f"engine exits: {reason}\n")
        sys.stderr.flush()
        if self._scratch is not None:
            self._scratch.clear()
        os._exit(_EXIT_CORE_DEAD)
