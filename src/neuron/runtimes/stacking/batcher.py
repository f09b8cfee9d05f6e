"""One thread calls the model with items of whatever requests there are."""

from __future__ import annotations

import logging
import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Sequence
from typing import Generic

import torch

from ...errors import EngineCrashedError, NeuronError, OutOfMemoryError
from ..torch_faults import first_line, is_device_lost, is_out_of_memory
from .request import Answer, Item, Request

logger = logging.getLogger(__name__)

_STOP_SECONDS = 30.0

Deliver = Callable[[list[Request[Item, Answer]]], None]


class StackingBatcher(ABC, Generic[Item, Answer]):
    """Owns the model's thread. `deliver` is called in it, with requests that have ended.

    Subclasses say which items share a call, and what an item's failure means.
    """

    def __init__(
        self,
        call: Callable[[Sequence[Item]], list[Answer]],
        deliver: Deliver[Item, Answer],
        model: str,
        max_items: int,
    ) -> None:
        self.steps = 0
        self._call = call
        self._deliver = deliver
        self._model = model
        self._max_items = max_items
        self._requests: deque[Request[Item, Answer]] = deque()
        """Those that have not ended; the first one's oldest item comes next."""
        self._changed = threading.Condition()
        self._stopping = False
        self._computing = False
        self._broken: str | None = None
        self._thread = threading.Thread(target=self._run, name="batcher", daemon=True)

    @abstractmethod
    def _choose(self) -> list[tuple[Request[Item, Answer], int]]:
        """The items of the next call, the first request's oldest among them. Under the lock."""

    @abstractmethod
    def _item_error(
        self, request: Request[Item, Answer], place: int, error: BaseException
    ) -> NeuronError:
        """What it means that the model failed at this item alone."""

    def _wait_for_company(self) -> None:
        """Let others come that could share the call; by default at once. Under the lock."""

    def start(self) -> None:
        """Begin to work."""
        self._thread.start()

    def submit(self, request: Request[Item, Answer]) -> None:
        """Queue a request; from any thread.

        Raises:
            EngineCrashedError: the device is lost, or the batcher was stopped.
        """
        with self._changed:
            if self._broken is not None or self._stopping:
                raise EngineCrashedError(self._broken or f"{self._model} is being unloaded")
            self._requests.append(request)
            self._changed.notify()

    def cancel(self, request: Request[Item, Answer]) -> None:
        """Compute no more of it; from any thread. A call under way is not interrupted."""
        with self._changed:
            request.cancelled = True
            if request in self._requests:
                self._requests.remove(request)
            self._changed.notify()

    def stop(self) -> None:
        """End after the current call; open requests fail. Blocks until the thread has ended."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join(_STOP_SECONDS)

    @property
    def active(self) -> int:
        """Requests that have not ended; a snapshot. At least one while a call is under way."""
        return max(len(self._requests), int(self._computing))

    @property
    def is_broken(self) -> bool:
        """Whether the device is lost."""
        return self._broken is not None

    def _run(self) -> None:
        while batch := self._next_batch():
            self._computing = True
            self._compute(batch)
            self._computing = False
            self._settle()
        self._fail_all(EngineCrashedError(f"{self._model} is being unloaded"))
        self._settle()

    def _next_batch(self) -> list[tuple[Request[Item, Answer], int]]:
        """The items of the next call; none when it is time to stop."""
        with self._changed:
            while not self._stopping:
                if not self._requests:
                    self._changed.wait()
                    continue
                self._wait_for_company()
                if self._requests and not self._stopping:
                    return self._take(self._choose())
            return []

    def _take(
        self, batch: list[tuple[Request[Item, Answer], int]]
    ) -> list[tuple[Request[Item, Answer], int]]:
        self._requests.rotate(-1)
        now = time.monotonic()
        for request, place in batch:
            request.waiting.pop(place, None)
            request.started = request.started or now
        return batch

    def _compute(self, batch: Sequence[tuple[Request[Item, Answer], int]]) -> None:
        """Call the model; where that fails for several items, call it for halves of them."""
        batch = [(request, place) for request, place in batch if not request.has_ended]
        if not batch:
            return
        try:
            answers = self._call([request.items[place] for request, place in batch])
        except BaseException as error:  # noqa: BLE001 -- its requests must hear of it
            self._on_failure(batch, error)
            return
        finally:
            self.steps += 1
        for (request, place), answer in zip(batch, answers, strict=True):
            request.answers[place] = answer
            request.left -= 1
            request.largest_batch = max(request.largest_batch, len(batch))

    def _on_failure(
        self, batch: Sequence[tuple[Request[Item, Answer], int]], error: BaseException
    ) -> None:
        if is_device_lost(error):
            logger.error("the device is lost: %s", error)
            self._broken = f"the device of {self._model} failed: {first_line(error)}"
            self._fail_all(EngineCrashedError(self._broken))
            return
        out_of_memory = is_out_of_memory(error)
        if out_of_memory and torch.cuda.is_available():
            torch.cuda.empty_cache()
        if len(batch) == 1:
            request, place = batch[0]
            request.error = self._as_neuron_error(request, place, error, out_of_memory)
            return
        middle = len(batch) // 2
        if out_of_memory:
            self._max_items = middle
        self._compute(batch[:middle])
        self._compute(batch[middle:])

    def _as_neuron_error(
        self, request: Request[Item, Answer], place: int, error: BaseException, out_of_memory: bool
    ) -> NeuronError:
        if isinstance(error, NeuronError):
            return error
        if out_of_memory:
            return OutOfMemoryError(f"{self._model} ran out of memory: {error}")
        return self._item_error(request, place, error)

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
