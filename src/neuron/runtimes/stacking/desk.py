"""Between an event loop, where requests come in, and a batcher's thread."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Generic

from .batcher import Deliver, StackingBatcher
from .request import Answer, Item, Request


class RequestDesk(Generic[Item, Answer]):
    """Hands requests over and waits for them; made on the event loop that it belongs to."""

    def __init__(
        self, make: Callable[[Deliver[Item, Answer]], StackingBatcher[Item, Answer]]
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._ended: dict[Request[Item, Answer], asyncio.Future[None]] = {}
        self.batcher = make(self._deliver)
        self.batcher.start()

    async def compute(self, request: Request[Item, Answer]) -> None:
        """Have the batcher answer the request; cancelling this drops it at once.

        Raises:
            NeuronError: it could not be answered.
        """
        ended = self._loop.create_future()
        self._ended[request] = ended
        try:
            self.batcher.submit(request)
            await ended
        finally:
            del self._ended[request]
            if not ended.done() or ended.cancelled():
                self.batcher.cancel(request)
        if request.error is not None:
            raise request.error

    def _deliver(self, requests: list[Request[Item, Answer]]) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._post, requests)

    def _post(self, requests: list[Request[Item, Answer]]) -> None:
        for request in requests:
            ended = self._ended.get(request)
            if ended is not None and not ended.done():
                ended.set_result(None)
