"""Carries a row's pieces from the batcher's thread to the task that waits for them."""

from __future__ import annotations

import asyncio

from .row import Piece


class Mailbox:
    """One row's; used on the event loop only."""

    def __init__(self) -> None:
        self._pieces: list[Piece] = []
        self._arrived = asyncio.Event()

    def put(self, piece: Piece) -> None:
        """Add a piece."""
        self._pieces.append(piece)
        self._arrived.set()

    async def take(self) -> Piece:
        """All that has arrived, as one piece; waits for at least one."""
        await self._arrived.wait()
        self._arrived.clear()
        pieces, self._pieces = self._pieces, []
        return Piece(
            "".join(piece.text for piece in pieces),
            [token for piece in pieces for token in piece.token_ids],
            pieces[-1].ending,
        )
