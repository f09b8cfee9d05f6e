"""Hugging Face Transformers, with continuous batching of our own."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import AsyncGenerator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
import transformers

from ..errors import InvalidInputError, NeuronError
from ..models.job import JobInput, ResumeState
from ..models.runtime import RuntimeType, TransformersConfig
from .base import BaseRuntime, EngineSettings, Generation, RuntimeStats
from .runtime_config import check_config
from .transformers_engine.batcher import Batcher
from .transformers_engine.decoder import Decoder, SoloDecoder
from .transformers_engine.hardware import cache_budget, memory_mb, respect_cpu_quota
from .transformers_engine.loading import LoadedCheckpoint, load_checkpoint
from .transformers_engine.probe import choose_decoder
from .transformers_engine.prompt import PromptBuilder
from .transformers_engine.row import Piece, Row

logger = logging.getLogger(__name__)


class _Tokens:
    """The tokenizer as the detokenizer needs it."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer

    def decode(self, token_ids: Any, /) -> str:
        text: str = self._tokenizer.decode(
            token_ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return text


class _Mailbox:
    """Carries a row's pieces from the batcher's thread to the task that waits for them."""

    def __init__(self) -> None:
        self._pieces: list[Piece] = []
        self._arrived = asyncio.Event()

    def put(self, piece: Piece) -> None:
        self._pieces.append(piece)
        self._arrived.set()

    async def take(self) -> Piece:
        """All that has arrived, as one piece; waits for at least one."""
        await self._arrived.wait()
        self._arrived.clear()
        pieces, self._pieces = self._pieces, []
        return Piece(
            "".join(piece.text for piece in pieces),
            [token for piece in pieces for token in piece.token_ids],
            pieces[-1].ending,
        )


class _Session:
    """A loaded model with its batcher."""

    def __init__(
        self, checkpoint: LoadedCheckpoint, decoder: Decoder, name: str, budget: int
    ) -> None:
        self.checkpoint = checkpoint
        self.name = name
        self.device: torch.device = checkpoint.model.device
        self.prompts = PromptBuilder(checkpoint.tokenizer, name, checkpoint.context_tokens)
        self.tokens = _Tokens(checkpoint.tokenizer)
        self.tokenizing = ThreadPoolExecutor(1, thread_name_prefix="tokenizer")
        self._loop = asyncio.get_running_loop()
        self._mailboxes: dict[Row, _Mailbox] = {}
        self.batcher = Batcher(decoder, self._deliver, name, budget)
        self.batcher.start()

    def row(self, job_input: JobInput, resume: ResumeState | None) -> Row:
        """Tokenize and check a request; blocks."""
        parameters = job_input.sampling
        checkpoint = self.checkpoint
        if (largest := max(parameters.stop_token_ids, default=0)) >= checkpoint.vocabulary:
            raise InvalidInputError(
                f"stop_token_ids: {largest} is not a token of {self.name}, which has "
                f"{checkpoint.vocabulary}"
            )
        prompt = self.prompts.build(job_input)
        room = checkpoint.context_tokens - len(prompt)
        return Row(
            prompt,
            parameters,
            max_tokens=min(parameters.max_tokens, room),
            end_tokens=checkpoint.end_tokens,
            seed=secrets.randbits(63) if parameters.seed is None else parameters.seed,
            tokenizer=self.tokens,
            resume=resume,
        )

    def open(self, row: Row) -> _Mailbox:
        """Hand the row to the batcher; what it says arrives in the mailbox."""
        mailbox = _Mailbox()
        self._mailboxes[row] = mailbox
        try:
            self.batcher.submit(row)
        except NeuronError:
            del self._mailboxes[row]
            raise
        return mailbox

    def close(self, row: Row) -> None:
        """Nobody waits for the row any more."""
        if self._mailboxes.pop(row, None) is not None and row.finish_reason is None:
            self.batcher.cancel(row)

    def _deliver(self, pieces: list[tuple[Row, Piece]]) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._post, pieces)

    def _post(self, pieces: list[tuple[Row, Piece]]) -> None:
        for row, piece in pieces:
            if (mailbox := self._mailboxes.get(row)) is not None:
                mailbox.put(piece)


class TransformersRuntime(BaseRuntime):
    """One Hugging Face model; up to max_batch_size requests are generated together."""

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

        def load() -> tuple[LoadedCheckpoint, Decoder, int]:
            respect_cpu_quota()
            transformers.utils.logging.disable_progress_bar()
            checkpoint = load_checkpoint(folder, wanted[0], parsed)
            decoder = choose_decoder(checkpoint, self.settings.max_batch_size)
            return checkpoint, decoder, cache_budget(checkpoint.model.device)

        checkpoint, decoder, budget = await asyncio.to_thread(load)
        self._session = _Session(checkpoint, decoder, wanted[0], budget)
        self._loaded = wanted
        logger.info(
            "loaded %s: %s on %s, %s", wanted[0], checkpoint.model.dtype, self._session.device,
            "one request at a time" if isinstance(decoder, SoloDecoder) else "batching",
        )  # fmt: skip

    async def generate(
        self, job_input: JobInput, resume: ResumeState | None = None
    ) -> AsyncGenerator[Generation, None]:
        session = self._session
        if session is None:
            raise NeuronError("no model is loaded")
        loop = asyncio.get_running_loop()
        row = await loop.run_in_executor(session.tokenizing, session.row, job_input, resume)
        if row.finish_reason is not None:  # the earlier attempt had got to the end
            yield Generation(row.take()[0], [], session.batcher.output(row))
            return
        mailbox = session.open(row)
        try:
            while True:
                piece = await mailbox.take()
                if isinstance(piece.ending, NeuronError):
                    raise piece.ending
                yield Generation(piece.text, piece.token_ids, piece.ending)
                if piece.ending is not None:
                    return
        finally:
            session.close(row)

    async def unload_model(self) -> None:
        session, self._session, self._loaded = self._session, None, None
        if session is None:
            return
        await asyncio.to_thread(session.batcher.stop)
        session.tokenizing.shutdown(wait=False, cancel_futures=True)
        on_gpu = session.device.type == "cuda"
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
        return RuntimeStats(batcher.active, memory_mb(session.device), batcher.steps)
