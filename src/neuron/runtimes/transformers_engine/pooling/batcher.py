"""Stacking: texts of like length are read together, whosever they are."""

from __future__ import annotations

import heapq
import logging
from collections.abc import Sequence
from typing import Any

from ....errors import NeuronError
from ...stacking.batcher import StackingBatcher
from ...stacking.request import Request
from ...torch_faults import first_line

logger = logging.getLogger(__name__)

MAX_PASS_TOKENS = 16_384
"""Padding included: one pass must neither fill the memory nor keep a cancellation waiting."""
_MAX_PADDING = 1.3
_FREE_PADDING = 64

TextRequest = Request[Sequence[int], Any]
"""Texts as tokens; answers as they stand in the job's result."""


class TextBatcher(StackingBatcher[Sequence[int], Any]):
    """Reads the first request's oldest text with those of about its length."""

    def _choose(self) -> list[tuple[TextRequest, int]]:
        first = self._requests[0]
        place = first.next_place
        assert place is not None
        size = len(first.items[place])
        nearest = heapq.nsmallest(
            self._max_items,
            ((request, at) for request in self._requests for at in request.waiting),
            key=lambda one: (one != (first, place), abs(len(one[0].items[one[1]]) - size)),
        )
        return _fitting(nearest)

    def _item_error(self, request: TextRequest, place: int, error: BaseException) -> NeuronError:
        logger.error("a pass failed", exc_info=error)
        return NeuronError(f"{self._model} failed: {first_line(error)}")


def _fitting(places: Sequence[tuple[TextRequest, int]]) -> list[tuple[TextRequest, int]]:
    """As many of the first places as make one pass without too much padding."""
    longest = total = 0
    for count, (request, place) in enumerate(places):
        size = len(request.items[place])
        longest, total = max(longest, size), total + size
        padded = longest * (count + 1)
        wasteful = padded > _MAX_PADDING * total + _FREE_PADDING
        if count and (padded > MAX_PASS_TOKENS or wasteful):
            return list(places[:count])
    return list(places)
