"""An answer that the model draws."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from concurrent.futures import Executor
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from vllm.lora.request import LoRARequest
from vllm.sampling_params import RequestOutputKind, SamplingParams, StructuredOutputsParams

from ...errors import NeuronError
from ...models.job import JobOutput
from ..base import Generation
from ..transformers_engine.row import Row, Timing
from .core import Core
from .logprobs import TokenScores
from .sampling import sampling_arguments
from .scoring import score_tokens

_QUIET_TOKENS = 16


@dataclass(frozen=True, slots=True)
class Guiding:
    """What vLLM holds the answer to, and what sees in `thread` that all of it came."""

    params: StructuredOutputsParams
    check_whole: Callable[[list[int]], None]
    thread: Executor


@dataclass(frozen=True, slots=True)
class Reading:
    """That the prompt's own tokens are scored, and its text where it was given as tokens."""

    scores: TokenScores
    text: str | None = None


@dataclass(frozen=True, slots=True)
class Answering:
    """A request for an answer, checked and tokenized."""

    core: Core
    row: Row
    end_tokens: Sequence[int]
    """The model's own, which end the answer unless it says `ignore_eos`."""
    metadata: dict[str, Any]
    scores: TokenScores | None = None
    guiding: Guiding | None = None
    adapter: LoRARequest | None = None
    reading: Reading | None = None

    async def answer(self) -> AsyncGenerator[Generation, None]:
        """The answer as it comes. Closing the generator aborts the request in vLLM.

        Raises:
            NeuronError: this request failed.
            EngineCrashedError: vLLM's engine core died.
        """
        row = self.row
        if self.adapter is not None:
            await self.core.add_adapter(self.adapter)
        await self._score_prompt()
        await self._score_resumed()
        if not row.max_tokens:  # only the prompt was to be read
            row.finish_reason = "length"
            row.timing.finished = time.monotonic()
        if row.finish_reason is not None:  # or the earlier attempt had got to the end
            yield Generation(row.take()[0], [], self._output(None))
            return
        outputs = self.core.generate(row.to_read, self._sampling(), self.adapter)
        async with aclosing(outputs):
            async for output in outputs:
                if self._take_in(output):
                    await self._finish_guided()
                    yield Generation(*row.take(), self._output(output.num_cached_tokens))
                    return
                yield Generation(*row.take())
                if output.finished:
                    reason = output.outputs[0].finish_reason
                    raise NeuronError(f"vLLM ended the answer before its end: {reason}")

    def _take_in(self, output: Any) -> bool:
        """Give the row its new tokens; whether it has got to its end."""
        now = time.monotonic()
        note_progress(self.row.timing, output, now)
        drawn = output.outputs[0]
        before = len(self.row.tokens)
        for token in drawn.token_ids:
            self.row.accept(token)
            if self.row.finish_reason is not None:
                self.row.timing.finished = now
                break
        if self.scores is not None and self.guiding is None:
            new = self.row.tokens[before:]
            self.scores.add(new, drawn.logprobs[: len(new)])
        return self.row.finish_reason is not None

    async def _score_prompt(self) -> None:
        """Score the prompt's tokens; vLLM keeps what it read for the answer behind them."""
        if self.reading is None:
            return
        first, *others = self.row.prompt
        self.reading.scores.add_unscored(first)
        if others:
            await score_tokens(self.core, [first], others, self.reading.scores, self.adapter)

    async def _score_resumed(self) -> None:
        """Score the tokens that an earlier attempt drew."""
        row = self.row
        if self.scores is not None and row.tokens:
            await score_tokens(self.core, row.prompt, row.tokens, self.scores, self.adapter)

    async def _finish_guided(self) -> None:
        """See that a guided answer is all that was asked for, unless the job cut it short.

        Its tokens are scored once it is there: vLLM tells what a guide has left of them.
        """
        row, guiding = self.row, self.guiding
        if guiding is None:
            return
        if row.tokens[-1] in self.end_tokens:
            loop = asyncio.get_running_loop()
            await loop.run_in_executor(guiding.thread, guiding.check_whole, row.tokens[:-1])
        if self.scores is not None:
            await score_tokens(self.core, row.prompt, row.tokens, self.scores, self.adapter)

    def _sampling(self) -> SamplingParams:
        row, parameters = self.row, self.row.parameters
        guided = self.guiding is not None
        ends = () if parameters.ignore_eos else self.end_tokens
        # To a guide, what ends the answer must come last: the row sees to the job's own ends.
        stops = () if guided else parameters.stop_token_ids
        return SamplingParams(
            **sampling_arguments(
                parameters,
                max_tokens=row.max_tokens,
                end_tokens=sorted({*ends, *stops}),
                resumed=row.tokens,
            ),
            logprobs=None if guided else parameters.logprobs,
            stream_interval=self._interval(),
            structured_outputs=None if self.guiding is None else self.guiding.params,
            output_kind=RequestOutputKind.DELTA,
            skip_clone=True,
        )

    def _interval(self) -> int:
        """How many tokens come at once: few messages where nobody reads along, unless the row
        must see each token, because it may be the last.
        """
        parameters = self.row.parameters
        ends_here = parameters.stop or (self.guiding is not None and parameters.stop_token_ids)
        return 1 if parameters.stream or ends_here else _QUIET_TOKENS

    def _output(self, cached_tokens: int | None) -> JobOutput:
        row = self.row
        metadata = {**self.metadata, **row.metadata(), "cached_prompt_tokens": cached_tokens or 0}
        if self.scores is not None:
            metadata["logprobs"] = self.scores.entries
        if self.reading is not None:
            metadata["prompt_logprobs"] = self.reading.scores.entries
            if self.reading.text is not None:
                metadata["prompt_text"] = self.reading.text
        metrics = row.timing.metrics(len(row.tokens) - row.resumed_tokens)
        return JobOutput(result=row.text, metadata=metadata, metrics=metrics)


def note_progress(timing: Timing, output: Any, now: float) -> None:
    """Note when vLLM began and when the first token came, from the first output."""
    if timing.first_token is None:
        timing.first_token = now
        # Taken in another process, but the monotonic clock is the machine's.
        timing.started = getattr(output.metrics, "scheduled_ts", 0) or None
