"""How many connections fetch at once: only as many as bring more.

Where a store gives each connection its share, many are needed. Where the processors are the limit,
each connection more costs: on two cores that also served, sixteen were a tenth slower than four.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable

from .board import Board

_WINDOW_SECONDS = 0.1
_REST_SECONDS = 1.0
_GAIN = 1.2
"""Twice the connections are kept where they bring so many times the bytes."""


def processors() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0))


def first_width(most: int) -> int:
    """How many connections a fetch begins with, of `most`."""
    return min(most, max(4, 2 * processors()))


class Width:
    """Doubles a board's width for a moment, and keeps what helped. For a thread of its own."""

    def __init__(self, most: int, rate: Callable[[Board, float], float]) -> None:
        self._most = most
        self._rate = rate

    def run(self, board: Board) -> None:
        """Try until all connections fetch, or the fetch ends."""
        seconds = _WINDOW_SECONDS
        while board.width < self._most and not board.is_over():
            narrow = board.width
            before = self._rate(board, seconds)
            board.widen(min(self._most, 2 * narrow))
            after = self._rate(board, _WINDOW_SECONDS)
            helped = before <= 0 or after >= before * _GAIN
            seconds = _WINDOW_SECONDS if helped else _REST_SECONDS
            if not helped:
                board.widen(narrow)


def rate_of(written: Callable[[], int]) -> Callable[[Board, float], float]:
    """Return what measures the bytes per second in the seconds to come; the end cuts it short."""

    def rate(board: Board, seconds: float) -> float:
        began, before = time.monotonic(), written()
        board.rest(seconds)
        return (written() - before) / max(1e-6, time.monotonic() - began)

    return rate
