"""Hugging Face Transformers, with continuous batching of our own."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path
from typing import Any, Protocol

import torch
import transformers

from ..errors import NeuronError
from ..models.job import JobInput, ResumeState
from ..models.runtime import RuntimeType, TransformersConfig
from .base import BaseRuntime, EngineSettings, Generation, RuntimeStats
from .runtime_config import check_config
from .transformers_engine.decoder import Decoder, SoloDecoder
from .transformers_engine.hardware import cache_budget, respect_cpu_quota
from .transformers_engine.loading import LoadedCheckpoint, load_checkpoint
from .transformers_engine.pooling.model import PoolingModel
from .transformers_engine.pooling.opening import open_model, try_out
from .transformers_engine.pooling.recipe import Recipe
from .transformers_engine.pooling.session import PoolingSession
from .transformers_engine.probe import choose_decoder
from .transformers_engine.session import TextSession
from .transformers_engine.task import Task, find_task

logger = logging.getLogger(__name__)


class _Session(Protocol):
    """A loaded model that answers."""

    @property
    def is_broken(self) -> bool: ...

    def stats(self) -> RuntimeStats: ...

    def answer(
        self, job_input: JobInput, resume: ResumeState | None
    ) -> AsyncGenerator[Generation, None]: ...

    def close(self) -> None: ...


class TransformersRuntime(BaseRuntime):
    """One Hugging Face model: it generates, embeds or classifies, as its folder or `task` says.

    Up to max_batch_size requests are generated together; as many texts share a pass of a model
    that embeds or classifies.
    """

    def __init__(self, settings: EngineSettings, engram_client: None = None) -> None:
        super().__init__(settings, engram_client)
        self._session: _Session | None = None
        self._loaded: tuple[str, dict[str, Any]] | None = None

    async def load_model(self, family: str, version: str, config: dict[str, Any]) -> None:
        wanted = (f"{family}:{version}", dict(config))
        if self._session is not None and self._loaded == wanted:
            return
        parsed = check_config(RuntimeType.TRANSFORMERS, config, self.settings)
        assert isinstance(parsed, TransformersConfig)
        await self.unload_model()
        folder = self.settings.model_cache_dir / family / version
        task = find_task(folder, wanted[0]) if parsed.task == "auto" else parsed.task
        if task == "generate":
            self._session = await self._load_text(folder, wanted[0], parsed)
        else:
            self._session = await self._load_pooling(folder, wanted[0], parsed, task)
        self._loaded = wanted

    async def generate(
        self, job_input: JobInput, resume: ResumeState | None = None
    ) -> AsyncGenerator[Generation, None]:
        if self._session is None:
            raise NeuronError("no model is loaded")
        async with aclosing(self._session.answer(job_input, resume)) as generations:
            async for generation in generations:
                yield generation

    async def unload_model(self) -> None:
        session, self._session, self._loaded = self._session, None, None
        if session is None:
            return
        await asyncio.to_thread(session.close)
        del session
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def is_model_loaded(self) -> bool:
        return self._session is not None and not self._session.is_broken

    def stats(self) -> RuntimeStats:
        return RuntimeStats() if self._session is None else self._session.stats()

    async def _load_text(self, folder: Path, name: str, config: TransformersConfig) -> TextSession:
        def load() -> tuple[LoadedCheckpoint, Decoder, int]:
            _prepare()
            checkpoint = load_checkpoint(folder, name, config)
            decoder = choose_decoder(checkpoint, self.settings.max_batch_size)
            return checkpoint, decoder, cache_budget(checkpoint.model.device)

        checkpoint, decoder, budget = await asyncio.to_thread(load)
        logger.info(
            "loaded %s: %s on %s, %s", name, checkpoint.model.dtype, checkpoint.model.device,
            "one request at a time" if isinstance(decoder, SoloDecoder) else "batching",
        )  # fmt: skip
        return TextSession(checkpoint, decoder, name, budget)

    async def _load_pooling(
        self, folder: Path, name: str, config: TransformersConfig, task: Task
    ) -> PoolingSession:
        def load() -> tuple[LoadedCheckpoint, PoolingModel, Recipe, int]:
            _prepare()
            checkpoint = load_checkpoint(folder, name, config, task)
            model, recipe = open_model(folder, name, checkpoint, task)
            texts = try_out(model, checkpoint.vocabulary, self.settings.max_batch_size)
            return checkpoint, model, recipe, texts

        checkpoint, model, recipe, texts = await asyncio.to_thread(load)
        logger.info(
            "loaded %s: %s on %s, to %s up to %d texts a pass", name, checkpoint.model.dtype,
            checkpoint.model.device, task, texts,
        )  # fmt: skip
        return PoolingSession(checkpoint, model, recipe, task, name, texts)


def _prepare() -> None:
    respect_cpu_quota()
    transformers.utils.logging.disable_progress_bar()
