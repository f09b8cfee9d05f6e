"""Where the answer to one request waits for its reader."""

from __future__ import annotations

import asyncio

from . import messages

Answer = messages.DataToWorker | None
"""What reaches an open request; None: there will be no more, the engine is gone."""


class Inbox:
    """Keeps what a slow reader has not taken yet as one Delta, no larger than the answer."""

    def __init__(self) -> None:
        self._request_id = 0
        self._texts: list[str] = []
        self._token_ids: list[int] = []
        self._last: Answer = None
        self._has_ended = False
        self._filled = asyncio.Event()

    def put(self, answer: Answer) -> None:
        """Add a piece; what follows one that is not a Delta is dropped."""
        if self._has_ended:
            return
        if isinstance(answer, messages.Delta):
            self._request_id = answer.request_id
            self._texts.append(answer.text)
            self._token_ids += answer.token_ids
        else:
            self._last, self._has_ended = answer, True
        self._filled.set()

    async def get(self) -> Answer:
        """All Deltas that came since the last call, as one; after them, the end."""
        await self._filled.wait()
        if not self._texts:
            return self._last
        delta = messages.Delta(self._request_id, "".join(self._texts), self._token_ids)
        self._texts, self._token_ids = [], []
        if not self._has_ended:
            self._filled.clear()
        return delta
