"""Work that blocks, done beside the event loop."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ParamSpec, TypeVar

from ...errors import NeuronError

P = ParamSpec("P")
T = TypeVar("T")
_Call = tuple["asyncio.Future[Any]", Callable[[], Any]]
_Outcome = tuple["asyncio.Future[Any]", Any, Exception | None]


class Threads:
    """Calls functions in threads, in the order in which they were given.

    To wake a thread costs more than to read a small row. So all calls of one turn of the loop are
    handed over at once, and the loop, once woken, takes all that has ended.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._executor = ThreadPoolExecutor(count, thread_name_prefix="rows")
        self._loop = asyncio.get_running_loop()
        self._calls: list[_Call] = []
        self._open: set[asyncio.Future[Any]] = set()
        self._is_closed = False
        self._outcomes: deque[_Outcome] = deque()
        self._loop_is_told = False

    async def call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """What the function returns or raises; a call cancelled before its turn is not made.

        Raises:
            NeuronError: the threads were closed.
        """
        if self._is_closed:
            raise NeuronError("the model is being unloaded")
        future: asyncio.Future[T] = self._loop.create_future()
        self._open.add(future)
        future.add_done_callback(self._open.discard)
        if not self._calls:
            self._loop.call_soon(self._hand_over)
        self._calls.append((future, lambda: function(*args, **kwargs)))
        return await future

    def close(self) -> None:
        """End the threads after what they are doing; open calls raise."""
        self._is_closed = True
        self._executor.shutdown(wait=False, cancel_futures=True)
        for future in list(self._open):
            future.set_exception(NeuronError("the model is being unloaded"))

    def _hand_over(self) -> None:
        calls, self._calls = self._calls, []
        if self._is_closed:
            return
        share = -(-len(calls) // self._count)
        for start in range(0, len(calls), share):
            self._executor.submit(self._work, calls[start : start + share])

    def _work(self, calls: Sequence[_Call]) -> None:
        for future, function in calls:
            if not future.cancelled():
                self._outcomes.append(_outcome(future, function))
                self._tell_loop()

    def _tell_loop(self) -> None:
        if not self._loop_is_told and not self._loop.is_closed():
            self._loop_is_told = True
            self._loop.call_soon_threadsafe(self._settle)

    def _settle(self) -> None:
        self._loop_is_told = False  # first: what comes from here on tells again
        while self._outcomes:
            future, result, error = self._outcomes.popleft()
            if future.done():
                continue
            if error is None:
                future.set_result(result)
            else:
                future.set_exception(error)


def _outcome(future: asyncio.Future[Any], function: Callable[[], Any]) -> _Outcome:
    try:
        return future, function(), None
    except Exception as error:  # noqa: BLE001 -- the caller gets it
        return future, None, error
