"""A loaded model that generates text, with its batcher."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing

import torch

from ...errors import NeuronError
from ...models.job import JobInput, JobOutput, ResumeState
from ..base import Generation, RuntimeStats
from ..choices import generate_choices
from .batcher import Batcher
from .decoder import Decoder
from .hardware import memory_mb
from .loading import LoadedCheckpoint
from .logprobs import entries, prompt_entries
from .mailbox import Mailbox
from .requests import RowMaker
from .row import Piece, Row
from .tokens import Tokens


class TextSession:
    """Made and used on one event loop; `close` blocks and may be called in any thread."""

    def __init__(
        self, checkpoint: LoadedCheckpoint, decoder: Decoder, name: str, budget: int
    ) -> None:
        self._device: torch.device = checkpoint.model.device
        self._tokens = Tokens(checkpoint.tokenizer)
        self._rows = RowMaker(checkpoint, self._tokens, name)
        self._tokenizing = ThreadPoolExecutor(1, thread_name_prefix="tokenizer")
        self._loop = asyncio.get_running_loop()
        self._mailboxes: dict[Row, Mailbox] = {}
        self._batcher = Batcher(decoder, self._deliver, name, budget)
        self._batcher.start()

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
        """As BaseRuntime.generate."""
        if job_input.sampling.n > 1:
            answers = generate_choices(lambda one: self._answer_once(one, None), job_input)
        else:
            answers = self._answer_once(job_input, resume)
        async with aclosing(answers):
            async for generation in answers:
                yield generation

    def close(self) -> None:
        """Fail what is open and free the model."""
        self._batcher.stop()
        self._tokenizing.shutdown(wait=False, cancel_futures=True)

    async def _answer_once(
        self, job_input: JobInput, resume: ResumeState | None
    ) -> AsyncGenerator[Generation, None]:
        row = await self._loop.run_in_executor(self._tokenizing, self._rows.make, job_input, resume)
        if row.finish_reason is not None:  # the earlier attempt had got to the end
            yield Generation(row.take()[0], [], self._batcher.output(row))
            return
        mailbox = self._open(row)
        try:
            while True:
                piece = await mailbox.take()
                if isinstance(piece.ending, NeuronError):
                    raise piece.ending
                if piece.ending is not None and (row.scored or row.scores_prompt):
                    await self._loop.run_in_executor(
                        self._tokenizing, self._tell_scores, job_input, row, piece.ending
                    )
                yield Generation(piece.text, piece.token_ids, piece.ending)
                if piece.ending is not None:
                    return
        finally:
            self._close(row)

    def _tell_scores(self, job_input: JobInput, row: Row, output: JobOutput) -> None:
        if row.scores_prompt:
            if not all(score.is_number for score in row.prompt_scores):
                raise NeuronError("the model's output is not a number")
            told = prompt_entries(row.prompt, row.prompt_scores, self._tokens.spell)
            output.metadata["prompt_logprobs"] = told
            if job_input.prompt_token_ids is not None:
                output.metadata["prompt_text"] = self._rows.text_of(row.prompt)
        if not row.scored:
            return
        scores = row.scores
        output.metadata["logprobs"] = entries(row.tokens, scores, self._tokens.spell)
        if row.parameters.target is not None:
            output.metadata["target_logprob"] = math.fsum(score.logprob for score in scores)

    def _open(self, row: Row) -> Mailbox:
        """Hand the row to the batcher; what it says arrives in the mailbox."""
        mailbox = Mailbox()
        self._mailboxes[row] = mailbox
        try:
            self._batcher.submit(row)
        except NeuronError:
            del self._mailboxes[row]
            raise
        return mailbox

    def _close(self, row: Row) -> None:
        """Nobody waits for the row any more."""
        if self._mailboxes.pop(row, None) is not None and row.finish_reason is None:
            self._batcher.cancel(row)

    def _deliver(self, pieces: list[tuple[Row, Piece]]) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._post, pieces)

    def _post(self, pieces: list[tuple[Row, Piece]]) -> None:
        for row, piece in pieces:
            if (mailbox := self._mailboxes.get(row)) is not None:
                mailbox.put(piece)
