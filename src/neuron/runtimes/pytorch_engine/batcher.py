"""Stacking: rows that fit together share a call, whosever they are."""

from __future__ import annotations

import time
from collections import deque

from ...errors import InvalidInputError, NeuronError
from ..stacking.batcher import Deliver, StackingBatcher
from ..stacking.request import Request
from ..torch_faults import first_line
from .calling import ModelCall, StackKey
from .tensors import RowTensors

GATHER_SECONDS = 0.003
"""How long the first row waits for others to share its call."""

RowRequest = Request[RowTensors, RowTensors]


class RowBatcher(StackingBatcher[RowTensors, RowTensors]):
    """Calls a custom model with rows in turns from all requests."""

    def __init__(
        self, call: ModelCall, deliver: Deliver[RowTensors, RowTensors], model: str, max_rows: int
    ) -> None:
        super().__init__(call, deliver, model, max_rows)
        self._key = call.key

    def _wait_for_company(self) -> None:
        until = time.monotonic() + GATHER_SECONDS
        while not self._stopping and self._count_waiting() < self._max_items:
            if (left := until - time.monotonic()) <= 0:
                return
            self._changed.wait(left)

    def _count_waiting(self) -> int:
        return sum(len(request.waiting) for request in self._requests)

    def _choose(self) -> list[tuple[RowRequest, int]]:
        """Rows that fit together, in turns from all requests, beginning with the oldest."""
        first = self._requests[0]
        place = first.next_place
        assert place is not None
        key = self._key(first.items[place])
        batch: list[tuple[RowRequest, int]] = []
        turn = deque(self._requests)
        while turn and len(batch) < self._max_items:
            request = turn.popleft()
            if (place := self._take_if_fitting(request, key)) is not None:
                batch.append((request, place))
                turn.append(request)
        return batch

    def _take_if_fitting(self, request: RowRequest, key: StackKey) -> int | None:
        """The request's next row if it fits; those that do not wait for a call of their own."""
        place = request.next_place
        if place is None or self._key(request.items[place]) != key:
            return None
        del request.waiting[place]
        return place

    def _item_error(self, request: RowRequest, place: int, error: BaseException) -> NeuronError:
        which = f"row {place}" if len(request.items) > 1 else "this input"
        return InvalidInputError(f"{self._model} cannot compute {which}: {first_line(error)}")
