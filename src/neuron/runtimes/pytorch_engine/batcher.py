"""Stacking: one thread calls the model with rows of whatever requests there are."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence

import torch

from ...errors import EngineCrashedError, InvalidInputError, NeuronError, OutOfMemoryError
from ..torch_faults import first_line, is_device_lost, is_out_of_memory
from .calling import ModelCall, StackKey
from .tensors import RowTensors

logger = logging.getLogger(__name__)

GATHER_SECONDS = 0.003
"""How long the first row waits for others to share its call."""
_STOP_SECONDS = 30.0


class Request:
    """Some rows that are answered together; the batcher's thread fills it in."""

    def __init__(self, rows: Sequence[RowTensors]) -> None:
        self.rows = list(rows)
        self.outputs: list[RowTensors | None] = [None] * len(rows)
        self.waiting = deque(range(len(rows)))
        self.left = len(rows)
        self.error: NeuronError | None = None
        self.cancelled = False
        self.largest_batch = 0
        self.submitted = time.monotonic()
        self.started: float | None = None
        self.finished: float | None = None

    @property
    def has_ended(self) -> bool:
        """Whether nothing more is computed for it."""
        return self.cancelled or self.error is not None or self.left == 0


Place = tuple[Request, int]
"""One row of a request."""


class Batcher:
    """Owns the model's thread. `deliver` is called in it, with requests that have ended."""

    def __init__(
        self,
        call: ModelCall,
        deliver: Callable[[list[Request]], None],
        model: str,
        max_rows: int,
    ) -> None:
        self.steps = 0
        self._call = call
        self._deliver = deliver
        self._model = model
        self._max_rows = max_rows
        self._requests: deque[Request] = deque()
        """Those that have not ended; the first one's rows come next."""
        self._changed = threading.Condition()
        self._stopping = False
        self._computing = False
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
        while batch := self._gather():
            self._computing = True
            self._compute(batch)
            self._computing = False
            self._settle()
        self._fail_all(EngineCrashedError(f"{self._model} is being unloaded"))
        self._settle()

    def _gather(self) -> list[Place]:
        """The rows of the next call; none when it is time to stop."""
        with self._changed:
            while not self._stopping:
                if not self._requests:
                    self._changed.wait()
                    continue
                self._wait_for_company()
                if self._requests and not self._stopping:
                    return self._choose()
            return []

    def _wait_for_company(self) -> None:
        until = time.monotonic() + GATHER_SECONDS
        while not self._stopping and self._count_waiting() < self._max_rows:
            if (left := until - time.monotonic()) <= 0:
                return
            self._changed.wait(left)

    def _count_waiting(self) -> int:
        return sum(len(request.waiting) for request in self._requests)

    def _choose(self) -> list[Place]:
        """Rows that fit together, in turns from all requests, beginning with the oldest."""
        first = self._requests[0]
        key = self._call.key(first.rows[first.waiting[0]])
        batch: list[Place] = []
        turn = deque(self._requests)
        while turn and len(batch) < self._max_rows:
            request = turn.popleft()
            if (place := self._take(request, key)) is not None:
                batch.append((request, place))
                turn.append(request)
        self._requests.rotate(-1)
        now = time.monotonic()
        for request, _ in batch:
            request.started = request.started or now
        return batch

    def _take(self, request: Request, key: StackKey) -> int | None:
        """The request's next row if it fits; those that do not wait for a call of their own."""
        if not request.waiting or self._call.key(request.rows[request.waiting[0]]) != key:
            return None
        return request.waiting.popleft()

    def _compute(self, batch: Sequence[Place]) -> None:
        """Call the model; where that fails for several rows, call it for halves of them."""
        batch = [(request, place) for request, place in batch if not request.has_ended]
        if not batch:
            return
        try:
            outputs = self._call([request.rows[place] for request, place in batch])
        except BaseException as error:  # noqa: BLE001 -- its requests must hear of it
            self._on_failure(batch, error)
            return
        finally:
            self.steps += 1
        for (request, place), output in zip(batch, outputs, strict=True):
            request.outputs[place] = output
            request.left -= 1
            request.largest_batch = max(request.largest_batch, len(batch))

    def _on_failure(self, batch: Sequence[Place], error: BaseException) -> None:
        if is_device_lost(error):
            logger.error("the device is lost: %s", error)
            self._broken = f"the device of {self._model} failed: {first_line(error)}"
            self._fail_all(EngineCrashedError(self._broken))
            return
        out_of_memory = is_out_of_memory(error)
        if out_of_memory and torch.cuda.is_available():
            torch.cuda.empty_cache()
        if len(batch) > 1:
            if out_of_memory:
                self._max_rows = max(1, len(batch) // 2)
            middle = len(batch) // 2
            self._compute(batch[:middle])
            self._compute(batch[middle:])
            return
        request, place = batch[0]
        which = f"row {place}" if len(request.rows) > 1 else "this input"
        if isinstance(error, NeuronError):
            request.error = error
        elif out_of_memory:
            request.error = OutOfMemoryError(f"{self._model} ran out of memory: {error}")
        else:
            request.error = InvalidInputError(
                f"{self._model} cannot compute {which}: {first_line(error)}"
            )

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
