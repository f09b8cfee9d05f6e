"""Stacking: one thread reads texts of like length together, whosever they are."""

from __future__ import annotations

import heapq
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import torch

from ....errors import EngineCrashedError, NeuronError, OutOfMemoryError
from ...torch_faults import first_line, is_device_lost, is_out_of_memory

logger = logging.getLogger(__name__)

MAX_PASS_TOKENS = 16_384
"""Padding included: one pass must neither fill the memory nor keep a cancellation waiting."""
_MAX_PADDING = 1.3
_FREE_PADDING = 64
_STOP_SECONDS = 30.0

Answer = Callable[[Sequence[Sequence[int]]], list[Any]]


class Request:
    """Some texts that are answered together; the batcher's thread fills it in."""

    def __init__(self, texts: Sequence[Sequence[int]]) -> None:
        self.texts = list(texts)
        self.answers: list[Any] = [None] * len(texts)
        self.waiting = dict.fromkeys(range(len(texts)))
        """The places of the texts that no pass has taken, in order."""
        self.left = len(texts)
        self.error: NeuronError | None = None
        self.cancelled = False
        self.submitted = time.monotonic()
        self.started: float | None = None
        self.finished: float | None = None

    @property
    def has_ended(self) -> bool:
        """Whether nothing more is computed for it."""
        return self.cancelled or self.error is not None or self.left == 0


Place = tuple[Request, int]
"""One text of a request."""


class Batcher:
    """Owns the model's thread. `deliver` is called in it, with requests that have ended."""

    def __init__(
        self,
        answer: Answer,
        deliver: Callable[[list[Request]], None],
        model: str,
        max_texts: int,
    ) -> None:
        self.steps = 0
        self._answer = answer
        self._deliver = deliver
        self._model = model
        self._max_texts = max_texts
        self._requests: deque[Request] = deque()
        """Those that have not ended; the first one's oldest text comes next."""
        self._changed = threading.Condition()
        self._stopping = False
        self._broken: str | None = None
        self._thread = threading.Thread(target=self._run, name="batcher", daemon=True)

    def start(self) -> None:
        """Begin to work."""
        self._thread.start()

    def submit(self, request: Request) -> None:
        """Queue a request; from any thread.

        Raises:
            EngineCrashedError: the device is lost, or the batcher was stopped.
        """
        with self._changed:
            if self._broken is not None or self._stopping:
                raise EngineCrashedError(self._broken or f"{self._model} is being unloaded")
            self._requests.append(request)
            self._changed.notify()

    def cancel(self, request: Request) -> None:
        """Compute no more of it; from any thread. A pass under way is not interrupted."""
        with self._changed:
            request.cancelled = True
            if request in self._requests:
                self._requests.remove(request)

    def stop(self) -> None:
        """End after the current pass; open requests fail. Blocks until the thread has ended."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join(_STOP_SECONDS)

    @property
    def active(self) -> int:
        """Requests that have not ended; a snapshot."""
        return len(self._requests)

    @property
    def is_broken(self) -> bool:
        """Whether the device is lost."""
        return self._broken is not None

    def _run(self) -> None:
        while batch := self._wait_for_batch():
            self._compute(batch)
            self._settle()
        self._fail_all(EngineCrashedError(f"{self._model} is being unloaded"))
        self._settle()

    def _wait_for_batch(self) -> list[Place]:
        """The texts of the next pass; none when it is time to stop."""
        with self._changed:
            while not (self._requests or self._stopping):
                self._changed.wait()
            return [] if self._stopping else self._choose()

    def _choose(self) -> list[Place]:
        """The first request's oldest text, and those of about its length, whosever they are."""
        first = self._requests[0]
        self._requests.rotate(-1)
        place = next(iter(first.waiting))
        size = len(first.texts[place])
        nearest = heapq.nsmallest(
            self._max_texts,
            ((request, at) for request in self._requests for at in request.waiting),
            key=lambda one: (one != (first, place), abs(len(one[0].texts[one[1]]) - size)),
        )
        batch = _fitting(nearest)
        now = time.monotonic()
        for request, at in batch:
            del request.waiting[at]
            request.started = request.started or now
        return batch

    def _compute(self, batch: Sequence[Place]) -> None:
        """Run a pass; where that fails for several texts, run one for each half of them."""
        batch = [(request, place) for request, place in batch if not request.has_ended]
        if not batch:
            return
        try:
            answers = self._answer([request.texts[place] for request, place in batch])
        except BaseException as error:  # noqa: BLE001 -- its requests must hear of it
            self._on_failure(batch, error)
            return
        finally:
            self.steps += 1
        for (request, place), answer in zip(batch, answers, strict=True):
            request.answers[place] = answer
            request.left -= 1

    def _on_failure(self, batch: Sequence[Place], error: BaseException) -> None:
        if is_device_lost(error):
            logger.error("the device is lost: %s", error)
            self._broken = f"the device of {self._model} failed: {first_line(error)}"
            self._fail_all(EngineCrashedError(self._broken))
            return
        out_of_memory = is_out_of_memory(error)
        if out_of_memory and torch.cuda.is_available():
            torch.cuda.empty_cache()
        if len(batch) == 1:
            batch[0][0].error = self._as_neuron_error(error, out_of_memory)
            return
        middle = len(batch) // 2
        if out_of_memory:
            self._max_texts = middle
        self._compute(batch[:middle])
        self._compute(batch[middle:])

    def _as_neuron_error(self, error: BaseException, out_of_memory: bool) -> NeuronError:
        if isinstance(error, NeuronError):
            return error
        if out_of_memory:
            return OutOfMemoryError(f"{self._model} ran out of memory: {error}")
        logger.error("a pass failed", exc_info=error)
        return NeuronError(f"{self._model} failed: {first_line(error)}")

    def _fail_all(self, error: NeuronError) -> None:
        with self._changed:
            for request in self._requests:
                request.error = error

    def _settle(self) -> None:
        """Let those that have ended go."""
        now = time.monotonic()
        with self._changed:
            ended = [request for request in self._requests if request.has_ended]
            for request in ended:
                self._requests.remove(request)
                request.finished = now
        if ended:
            self._deliver(ended)


def _fitting(places: Sequence[Place]) -> list[Place]:
    """As many of the first places as make one pass without too much padding."""
    longest = total = 0
    for count, (request, place) in enumerate(places):
        size = len(request.texts[place])
        longest, total = max(longest, size), total + size
        padded = longest * (count + 1)
        wasteful = padded > _MAX_PADDING * total + _FREE_PADDING
        if count and (padded > MAX_PASS_TOKENS or wasteful):
            return list(places[:count])
    return list(places)
