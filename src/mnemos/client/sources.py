"""Where an async `map` takes its items from."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator, Sequence
from typing import Any, Generic, Protocol, TypeVar

Item = TypeVar("Item")
Item_co = TypeVar("Item_co", covariant=True)

_END = object()
TAKING_SECONDS = 0.05
"""For so long items are gathered before those that are there are sent."""


class Source(Protocol[Item_co]):
    """Items, taken as there is room for them."""

    @property
    def pending(self) -> asyncio.Future[Any] | None:
        """What ends when the next item is there; None where it need not be awaited."""

    async def take(self, wanted: int) -> tuple[Sequence[Item_co], bool]:
        """Those of the next items that are there, and whether they were the last."""


class PlainSource(Generic[Item]):
    """An ordinary iterable, on the event loop."""

    pending: asyncio.Future[Any] | None = None

    def __init__(self, items: Iterable[Item]) -> None:
        self._items: Iterator[Item] = iter(items)
        self._ended = False

    async def take(self, wanted: int) -> tuple[list[Item], bool]:
        """Take them, for a moment."""
        taken: list[Item] = []
        began = time.monotonic()
        while len(taken) < wanted and time.monotonic() - began < TAKING_SECONDS:
            try:
                taken.append(next(self._items))
            except StopIteration:
                self._ended = True
                break
        return taken, self._ended


class AwaitedSource(Generic[Item]):
    """An async iterable: the next item is awaited beside everything else."""

    def __init__(self, items: AsyncIterable[Item]) -> None:
        self._items: AsyncIterator[Item] = aiter(items)
        self._ended = False
        self.pending: asyncio.Future[Any] | None = None

    async def take(self, wanted: int) -> tuple[list[Item], bool]:
        """Take the items that come at once."""
        taken: list[Item] = []
        began = time.monotonic()
        while not self._ended and len(taken) < wanted:
            if self.pending is None:
                # A task of its own: it may go on over a yield, which a group cannot (PEP 789).
                self.pending = asyncio.create_task(_next(self._items))  # noqa: TID251
                await asyncio.sleep(0)
            if not self.pending.done() or time.monotonic() - began > TAKING_SECONDS:
                break
            self._keep(taken)
        return taken, self._ended

    def _keep(self, taken: list[Item]) -> None:
        assert self.pending is not None
        task, self.pending = self.pending, None
        item = task.result()
        if item is _END:
            self._ended = True
        else:
            taken.append(item)


async def _next(items: AsyncIterator[Item]) -> Item | object:
    return await anext(items, _END)


def open_source(items: Iterable[Item] | AsyncIterable[Item]) -> Source[Item]:
    """The source that fits."""
    if isinstance(items, AsyncIterable):
        return AwaitedSource(items)
    return PlainSource(items)
