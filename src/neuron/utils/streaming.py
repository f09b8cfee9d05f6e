"""Putting tokens together into chunks, so that speed costs no messages and the first no delay."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import msgspec

from ..models.job import RowResult, StreamChunk
from ..models.lease import AttemptRef

COALESCE_SECONDS = 0.03
CHUNK_BYTES = 256 * 1024
"""A chunk that has gathered so much is complete: chunks must fit into messages."""
_CHUNK_OVERHEAD_BYTES = 96


@dataclass(slots=True)
class TokenBuffer:
    """One attempt's tokens, from the engine to CORTEX's acknowledgement.

    `add` and `add_row` gather; `cut` brings what was gathered as chunks, at once the first time
    and then at most every `COALESCE_SECONDS`; chunks are kept until `acknowledge`, and `rewind`
    offers the unacknowledged ones again. `clock` gives monotonic seconds.
    """

    ref: AttemptRef
    clock: Callable[[], float]
    due: float = 0.0
    next_sequence: int = 0
    closed: bool = False
    restored: bool = False
    unacknowledged: deque[StreamChunk] = field(default_factory=deque)
    _text: list[str] = field(default_factory=list)
    _token_ids: list[int] = field(default_factory=list)
    _final_metadata: dict[str, Any] | None = None
    _unsent: int = 0
    _gathered: int = 0
    _bytes: int = 0

    @property
    def size_bytes(self) -> int:
        """About how much memory the tokens hold."""
        return self._bytes

    @property
    def has_unsent(self) -> bool:
        """Whether anything waits to be sent, now or when it is due."""
        return bool(self._unsent or self._text or self._token_ids) or (
            self._final_metadata is not None
        )

    @property
    def drained(self) -> bool:
        """Whether everything that will ever come has been acknowledged."""
        return self.closed and not self.unacknowledged and not self.has_unsent

    def add(self, text: str, token_ids: list[int]) -> None:
        """Gather one delta."""
        if text:
            self._text.append(text)
        self._token_ids.extend(token_ids)
        size = _content_size(text, token_ids)
        self._gathered += size
        self._bytes += size
        if self._gathered >= CHUNK_BYTES:
            self._seal()

    def add_row(self, row: RowResult) -> None:
        """Gather one finished row: a chunk of its own, behind the text that came before it."""
        if self._text or self._token_ids:
            self._seal()
        self._seal(row)

    def finish(self, metadata: dict[str, Any]) -> None:
        """Gather nothing more; the last chunk says so and carries `metadata`."""
        self.closed = True
        self._final_metadata = metadata
        self.due = self.clock()

    def abandon(self) -> None:
        """Drop everything: nobody wants this attempt's tokens."""
        self.closed = True
        self._final_metadata = None
        self._text.clear()
        self._token_ids.clear()
        self.unacknowledged.clear()
        self._unsent = 0
        self._gathered = 0
        self._bytes = 0

    def cut(self, now: float) -> list[StreamChunk]:
        """Return the chunks to send now: if they are due, those to send again and the new ones."""
        if now < self.due:
            return []
        if self._text or self._token_ids or self._final_metadata is not None:
            self._seal()
        if not self._unsent:
            return []
        self.due = now + COALESCE_SECONDS
        start = len(self.unacknowledged) - self._unsent
        self._unsent = 0
        return [self.unacknowledged[index] for index in range(start, len(self.unacknowledged))]

    def acknowledge(self, next_sequence: int) -> None:
        """Forget chunks below `next_sequence`: they are durable."""
        while self.unacknowledged and self.unacknowledged[0].sequence < next_sequence:
            self._bytes -= wire_size(self.unacknowledged.popleft())
        self._unsent = min(self._unsent, len(self.unacknowledged))

    def seal(self) -> list[StreamChunk]:
        """Make chunks of what was gathered, too, and return every unacknowledged one."""
        if self._text or self._token_ids or self._final_metadata is not None:
            self._seal()
        return list(self.unacknowledged)

    def restore(self, chunks: list[StreamChunk]) -> None:
        """Take over all that an earlier process left of the attempt; nothing more will come."""
        self.closed = True
        self.unacknowledged.extend(chunks)
        self.next_sequence = chunks[-1].sequence + 1
        self.restored = True
        self._bytes += sum(map(wire_size, chunks))
        self.rewind()

    def lacks_chunks(self, next_sequence: int) -> bool:
        """Whether CORTEX waits for a chunk that the earlier process could not keep."""
        if not (self.restored and self.unacknowledged):
            return False
        return next_sequence < self.unacknowledged[0].sequence

    def rewind(self) -> None:
        """Offer every unacknowledged chunk again (a new connection)."""
        self._unsent = len(self.unacknowledged)

    def _seal(self, row: RowResult | None = None) -> None:
        chunk = StreamChunk(
            job_id=self.ref.job_id,
            attempt=self.ref.attempt,
            sequence=self.next_sequence,
            content="".join(self._text),
            token_ids=list(self._token_ids),
            is_final=self._final_metadata is not None,
            metadata=self._final_metadata or {},
            row=row,
        )
        self.next_sequence += 1
        self._bytes += wire_size(chunk) - self._gathered
        self._gathered = 0
        self._text.clear()
        self._token_ids.clear()
        self._final_metadata = None
        self.unacknowledged.append(chunk)
        self._unsent += 1


def wire_size(chunk: StreamChunk) -> int:
    """Return about how many bytes a chunk takes in a message, rather too many than too few."""
    size = _content_size(chunk.content, chunk.token_ids) + _CHUNK_OVERHEAD_BYTES
    if chunk.row is not None:
        size += len(msgspec.json.encode(chunk.row.result, enc_hook=str))
    return size


def _content_size(text: str, token_ids: list[int]) -> int:
    return len(text.encode()) + 5 * len(token_ids)
