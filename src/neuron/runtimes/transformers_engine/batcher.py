"""Continuous batching: one thread keeps the model busy with whatever requests there are.

New requests are read (prefilled) in groups between decode steps and join the running batch; rows
that end leave at once. The first rows run, those behind them are being read. Where memory runs
out, the newest rows go back to wait with what they have, and fewer rows run for a while.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence

import torch

from ...errors import EngineCrashedError, NeuronError, OutOfMemoryError
from ...models.job import JobOutput
from ..torch_faults import is_device_lost, is_out_of_memory
from .decoder import Decoder
from .drawing import draw
from .logprobs import score_prompt
from .row import Piece, Row

logger = logging.getLogger(__name__)

PREFILL_SECONDS = 0.25
"""How long one prefill pass may take: a cancellation waits for it."""
STALL_SECONDS = 0.6
"""How long running rows may wait while new ones are read."""
MIN_PREFILL_TOKENS, MAX_PREFILL_TOKENS = 64, 8192
CALM_STEPS = 200
"""After memory ran out: so many steps without trouble let one row more run."""
MAX_SCORED_TOKENS = 256
"""Logits behind every token of a prompt take memory: so many are had at once."""
_MAX_PADDING = 1.3
_STOP_SECONDS = 30.0

Deliver = Callable[[list[tuple[Row, Piece]]], None]


class Batcher:
    """Owns the decoder and its thread. `deliver` is called in that thread, once per step."""

    def __init__(
        self, decoder: Decoder, deliver: Deliver, model: str, memory_budget: int | None = None
    ) -> None:
        self.steps = 0
        self._decoder = decoder
        self._deliver = deliver
        self._model = model
        self._memory_budget = memory_budget
        self._max_rows = decoder.max_rows
        self._calm_since = 0
        self._arrivals: deque[Row] = deque()
        self._waiting: list[Row] = []
        self._rows: list[Row] = []
        self._running = 0
        self._read = 0
        """How many tokens of the rows behind the running ones have been read."""
        self._drawing = False
        """Whether the decoder has read a token of each row that draws its next one now."""
        self._pieces: list[tuple[Row, Piece]] = []
        self._prefill_tokens = 256
        self._changed = threading.Condition()
        self._stopping = False
        self._broken: str | None = None
        self._thread = threading.Thread(target=self._run, name="batcher", daemon=True)

    def start(self) -> None:
        """Begin to work."""
        self._thread.start()

    def submit(self, row: Row) -> None:
        """Queue a row; from any thread.

        Raises:
            EngineCrashedError: the device is lost, or the batcher was stopped.
        """
        with self._changed:
            if self._broken is not None or self._stopping:
                raise EngineCrashedError(self._broken or f"{self._model} is being unloaded")
            self._arrivals.append(row)
            self._changed.notify()

    def cancel(self, row: Row) -> None:
        """Drop a row at the next step; from any thread."""
        with self._changed:
            row.cancelled = True
            self._changed.notify()

    def stop(self) -> None:
        """End after the current step; open rows fail. Blocks until the thread has ended."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join(_STOP_SECONDS)

    @property
    def active(self) -> int:
        """Rows that have not ended; a snapshot."""
        return len(self._arrivals) + len(self._waiting) + len(self._rows)

    @property
    def is_broken(self) -> bool:
        """Whether the device is lost."""
        return self._broken is not None

    def _run(self) -> None:
        with torch.inference_mode():
            while self._wait_for_work():
                try:
                    self._step()
                except BaseException as error:  # noqa: BLE001 -- all rows must hear of it
                    self._on_failure(error)
                self._hand_over()
        self._fail(self._all_rows(), EngineCrashedError(f"{self._model} is being unloaded"))
        self._hand_over()
        self._decoder.release()

    def _wait_for_work(self) -> bool:
        with self._changed:
            while not (self._arrivals or self._waiting or self._rows or self._stopping):
                self._changed.wait()
            self._waiting += self._arrivals
            self._arrivals.clear()
            return not self._stopping

    def _step(self) -> None:
        self._drop_cancelled()
        self._raise_concurrency()
        stalled_at = time.monotonic() + STALL_SECONDS
        while self._may_prefill() and not (self._running and time.monotonic() > stalled_at):
            self._prefill()
            self._hand_over()
            self._wait_for_work()
            self._drop_cancelled()
        if self._running:
            self._decode()

    def _may_prefill(self) -> bool:
        if self._stopping:
            return False
        if len(self._rows) > self._running:
            return True
        return (
            bool(self._waiting)
            and len(self._rows) < self._max_rows
            and self._fits(self._waiting[0])
        )

    def _fits(self, row: Row, chosen: Sequence[Row] = ()) -> bool:
        """Whether memory holds the row beside the present ones and those chosen already."""
        beside = [*self._rows, *chosen]
        if self._memory_budget is None or not beside:
            return True
        columns = max(other.final_length for other in (*beside, row))
        return self._decoder.memory_needed(len(beside) + 1, columns) <= self._memory_budget

    def _prefill(self) -> None:
        if len(self._rows) == self._running:
            self._read = 0
            self._rows += self._choose_group()
        group = self._rows[self._running :]
        began = time.monotonic()
        texts = [row.to_read for row in group]
        longest = max(map(len, texts))
        end = longest
        if self._decoder.can_prefill_in_chunks and len(group) == 1:
            end = min(longest, self._read + self._pass_tokens(group))
        logits = self._read_chunks(group, [text[self._read : end] for text in texts])
        done = end == longest
        if done:
            self._running = len(self._rows)
            self._draw(logits, group)
        self._learn_pace(len(group) * (end - self._read), time.monotonic() - began)
        self._read = 0 if done else end
        self.steps += 1
        if done:
            self._drop_finished()

    def _read_chunks(self, group: Sequence[Row], chunks: Sequence[list[int]]) -> torch.Tensor:
        """Have the next chunk of each read; logits after each. Prompts are scored on the way."""
        start = self._read
        if not any(row.scores_prompt for row in group):
            return self._decoder.prefill(self._running, start, chunks)
        logits = self._decoder.prefill(self._running, start, chunks, every=True)
        for row, chunk, own in zip(group, chunks, logits, strict=True):
            if row.scores_prompt:
                top = row.parameters.prompt_logprobs or 0
                scored = row.prompt_scores[:start]  # a row that is read again begins again
                row.prompt_scores = scored + score_prompt(own[: len(chunk)], row.prompt, start, top)
        return torch.stack([own[len(chunk) - 1] for own, chunk in zip(logits, chunks, strict=True)])

    def _pass_tokens(self, group: Sequence[Row]) -> int:
        """How many tokens one pass may read."""
        if any(row.scores_prompt for row in group):
            return min(self._prefill_tokens, MAX_SCORED_TOKENS)
        return self._prefill_tokens

    def _choose_group(self) -> list[Row]:
        """The oldest waiting row, and others of about its length that fit into one pass."""
        free = self._max_rows - len(self._rows)
        first = self._waiting[0]
        size = len(first.to_read)
        group = [first]
        longest = total = size
        others = sorted(self._waiting[1:free], key=lambda row: abs(len(row.to_read) - size))
        for row in others:
            length = len(row.to_read)
            longest, total = max(longest, length), total + length
            padded = longest * (len(group) + 1)
            if padded > self._pass_tokens([*group, row]) or padded > _MAX_PADDING * total:
                break
            if not self._fits(row, group):
                break
            group.append(row)
        now = time.monotonic()
        for row in group:
            self._waiting.remove(row)
            row.timing.started = row.timing.started or now
        return group

    def _learn_pace(self, tokens: int, seconds: float) -> None:
        if tokens < MIN_PREFILL_TOKENS or seconds <= 0:
            return
        wanted = tokens / seconds * PREFILL_SECONDS
        smoothed = int(0.5 * self._prefill_tokens + 0.5 * wanted)
        self._prefill_tokens = min(max(smoothed, MIN_PREFILL_TOKENS), MAX_PREFILL_TOKENS)

    def _decode(self) -> None:
        rows = self._rows[: self._running]
        logits = self._decoder.decode([row.tokens[-1] for row in rows])
        self._draw(logits, rows)
        self.steps += 1
        self._drop_finished()

    def _draw(self, logits: torch.Tensor, rows: Sequence[Row]) -> None:
        self._drawing = True
        drawn = draw(logits, rows)
        now = time.monotonic()
        for row, next_token in zip(rows, drawn, strict=True):
            row.timing.first_token = row.timing.first_token or now
            if isinstance(next_token, NeuronError):
                self._pieces.append((row, Piece("", [], next_token)))
                row.cancelled = True
                continue
            row.accept(next_token.token, next_token.score)
            if row.finish_reason is not None:
                row.timing.finished = now
            text, new_tokens = row.take()
            self._pieces.append((row, Piece(text, new_tokens, self.output(row))))
        self._drawing = False

    def output(self, row: Row) -> JobOutput | None:
        """What a row ended with; None while it goes on."""
        if row.finish_reason is None:
            return None
        return JobOutput(
            result=row.text,
            metadata={"model": self._model, "runtime": "transformers", **row.metadata()},
            metrics=row.timing.metrics(len(row.tokens) - row.resumed_tokens),
        )

    def _drop_finished(self) -> None:
        self._drop(lambda row: row.finish_reason is not None or row.cancelled)

    def _drop_cancelled(self) -> None:
        self._waiting = [row for row in self._waiting if not row.cancelled]
        self._drop(lambda row: row.cancelled)

    def _drop(self, leaves: Callable[[Row], bool]) -> None:
        for index in reversed(range(len(self._rows))):
            if leaves(self._rows[index]):
                self._remove(index)

    def _remove(self, index: int) -> None:
        """Close the gap: with the last running row, whose gap the very last row closes."""
        if index < self._running:
            self._running -= 1
            self._put(self._running, index)
            index = self._running
        self._put(len(self._rows) - 1, index)
        self._rows.pop()
        self._decoder.truncate(len(self._rows))

    def _put(self, source: int, target: int) -> None:
        if source != target:
            self._rows[target] = self._rows[source]
            self._decoder.move(source, target)

    def _on_failure(self, error: BaseException) -> None:
        group = self._rows[self._running :]
        if is_device_lost(error):
            logger.error("the device is lost: %s", error)
            self._broken = f"the device of {self._model} failed: {error}"
            self._fail(self._all_rows(), EngineCrashedError(self._broken))
        elif is_out_of_memory(error):
            self._lower_concurrency(error)
        else:
            logger.error("a step failed", exc_info=error)
            victims = list(self._rows) if self._drawing else group or list(self._rows)
            self._fail(victims, NeuronError(f"generation failed: {type(error).__name__}: {error}"))
        self._drawing = False

    def _lower_concurrency(self, error: BaseException) -> None:
        """A smaller batch may still fit: the newest rows wait, and are read again later."""
        rows = list(self._rows)
        group = rows[self._running :]
        if len(rows) == 1:
            self._fail(rows, OutOfMemoryError(f"{self._model} ran out of memory: {error}"))
        else:
            # A group that was being read alone is tried again by halves.
            self._max_rows = (self._running or len(rows) // 2) if group else len(rows) - 1
            logger.warning("memory ran out: at most %d rows run now", self._max_rows)
            newest = group or [max(rows, key=lambda row: row.timing.submitted)]
            # In the midst of drawing, the decoder is ahead of every row.
            self._send_back(rows if self._drawing else newest)
        self._calm_since = self.steps
        self._prefill_tokens = MIN_PREFILL_TOKENS
        if not self._rows:
            self._decoder.release()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _send_back(self, rows: Sequence[Row]) -> None:
        """They keep their tokens and wait again, before those that came later."""
        leaving = set(rows)
        self._drop(lambda row: row in leaving)
        self._waiting = sorted([*rows, *self._waiting], key=lambda row: row.timing.submitted)

    def _raise_concurrency(self) -> None:
        if self._max_rows == self._decoder.max_rows:
            return
        if self.steps - self._calm_since >= CALM_STEPS:
            self._max_rows += 1
            self._calm_since = self.steps

    def _fail(self, rows: Sequence[Row], error: NeuronError) -> None:
        for row in rows:
            self._pieces.append((row, Piece("", [], error)))
            row.cancelled = True
        self._drop_cancelled()

    def _all_rows(self) -> list[Row]:
        with self._changed:
            self._waiting += self._arrivals
            self._arrivals.clear()
        return [*self._rows, *self._waiting]

    def _hand_over(self) -> None:
        pieces, self._pieces = self._pieces, []
        if pieces:
            self._deliver(pieces)
