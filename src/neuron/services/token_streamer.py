"""Carrying the tokens of all jobs to CORTEX over one stream, each until it is acknowledged."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from typing import Any, ClassVar, Protocol

import structlog

from ..clients.cortex_client import SENDABLE_BYTES
from ..errors import CortexUnavailableError, NeuronError, WorkerUnknownError
from ..models.job import RowResult, StreamChunk
from ..models.lease import AttemptRef, StreamAck, Verdict
from ..utils.metrics import WorkerMetrics
from ..utils.retry import Backoff
from ..utils.streaming import TokenBuffer, wire_size
from .identity import Registrar
from .lease_keeper import LeaseKeeper, LeaseLoss
from .service import Service

logger = structlog.get_logger(__name__)

MEMORY_LIMIT_BYTES = 32 * 1024 * 1024
MESSAGE_CHUNKS = 512
STALL_SECONDS = 10.0
"""Without an acknowledgement for so long the stream counts as broken."""
MESSAGES_AHEAD = 2
"""So many may wait for their acknowledgement: one that CORTEX makes durable, and the next.

What comes meanwhile is gathered, so that tokens that come faster than commits make larger chunks
and not a longer queue.
"""


class Channel(Protocol):
    """One open stream."""

    async def send(self, chunks: list[StreamChunk]) -> None: ...

    def acknowledgements(self) -> AsyncIterator[list[StreamAck]]: ...

    def close(self) -> None: ...


class StreamingClient(Protocol):
    """What streaming asks of a CORTEX client."""

    def open_token_channel(self, worker_id: str) -> Channel: ...


class ChunkKeeper(Protocol):
    """Who keeps chunks over the end of this process."""

    def keep_chunks(self, ref: AttemptRef, chunks: Sequence[StreamChunk]) -> None: ...

    def forget_chunks(self, ref: AttemptRef, below: int) -> None: ...


class TokenStream:
    """One attempt's tokens on their way; made by TokenStreamer.open()."""

    def __init__(self, streamer: TokenStreamer, buffer: TokenBuffer) -> None:
        self._streamer = streamer
        self.buffer = buffer
        self.done = asyncio.Event()
        """Set when everything is acknowledged, or nobody wants it any more."""
        self.counted_bytes = 0
        self.kept_below = 0
        """Chunks below this sequence number were given to the outbox."""

    def unacknowledged(self) -> list[StreamChunk]:
        """Return every chunk that CORTEX has not acknowledged."""
        return self.buffer.seal()

    async def send(self, text: str, token_ids: list[int]) -> None:
        """Add one delta; waits only while too much is unacknowledged, over all jobs."""
        if not self.buffer.closed:
            self.buffer.add(text, token_ids)
            self._streamer.note_added(self)
            await self._streamer.wait_for_room()

    async def send_row(self, row: RowResult) -> None:
        """Add one finished row; waits as send() does."""
        if not self.buffer.closed:
            self.buffer.add_row(row)
            self._streamer.note_added(self)
            await self._streamer.wait_for_room()

    def end(self, metadata: dict[str, Any]) -> None:
        """Add the last chunk; `done` says when CORTEX has acknowledged every one."""
        if not self.buffer.closed:
            self.buffer.finish(metadata)
            self._streamer.note_added(self)

    async def finish(self, metadata: dict[str, Any]) -> None:
        """Send the last chunk and return when CORTEX has acknowledged every one."""
        self.end(metadata)
        await self.done.wait()

    def close(self) -> None:
        """Forget the attempt; unacknowledged tokens are dropped. May be called twice."""
        self.buffer.abandon()
        self._streamer.forget(self)


class TokenStreamer(Service):
    """Sends chunks in order, keeps them until acknowledged, sends them again on a new stream.

    They are kept in memory; while no stream comes about, in the outbox too.
    """

    name: ClassVar[str] = "token_streamer"

    def __init__(
        self,
        client: StreamingClient,
        registrar: Registrar,
        keeper: LeaseKeeper,
        metrics: WorkerMetrics | None = None,
        memory_limit_bytes: int = MEMORY_LIMIT_BYTES,
        outbox: ChunkKeeper | None = None,
    ) -> None:
        super().__init__()
        self._outbox = outbox
        self._client = client
        self._registrar = registrar
        self._keeper = keeper
        self._metrics = metrics
        self._limit = memory_limit_bytes
        self._clock = asyncio.get_running_loop().time
        self._streams: dict[AttemptRef, TokenStream] = {}
        self._wake = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        self._next_wake = math.inf
        self._progress_at = self._clock()
        self._ahead = 0
        self._bytes = 0

    def open(self, ref: AttemptRef) -> TokenStream:
        """Begin to carry an attempt's tokens."""
        stream = TokenStream(self, TokenBuffer(ref, self._clock))
        self._streams[ref] = stream
        return stream

    def reopen(self, ref: AttemptRef, chunks: list[StreamChunk]) -> TokenStream:
        """Carry on with what an earlier process left of an attempt that has ended."""
        stream = self.open(ref)
        stream.buffer.restore(chunks)
        self.note_added(stream)
        return stream

    def forget(self, stream: TokenStream) -> None:
        """Carry an attempt's tokens no more."""
        stream.done.set()
        if self._streams.get(stream.buffer.ref) is stream:
            del self._streams[stream.buffer.ref]
        self._recount(stream)

    def note_added(self, stream: TokenStream) -> None:
        """Count the tokens, and wake the sender if it would sleep past the time they are due."""
        self._recount(stream)
        if stream.buffer.due < self._next_wake:
            self._wake.set()

    async def wait_for_room(self) -> None:
        """Wait while the unacknowledged tokens of all jobs take too much memory."""
        await self._room.wait()

    async def run(self) -> None:
        """Send and receive until cancelled, over as many streams as it takes."""
        backoff = Backoff(initial=0.1, maximum=3.0)
        while True:
            if not self._outstanding():
                self._next_wake = math.inf
                await self._wake.wait()
                self._wake.clear()
                continue
            try:
                await self._one_channel(backoff)
            except* WorkerUnknownError:
                await self._registrar.register_again()
            except* NeuronError as group:
                logger.warning("token_stream_broken", error=str(group.exceptions[0]))
            for stream in self._streams.values():
                stream.buffer.rewind()
                self._keep(stream)
            await asyncio.sleep(backoff.next_delay())

    def _keep(self, stream: TokenStream) -> None:
        """Give the outbox what it has not got of the unacknowledged chunks."""
        if self._outbox is None:
            return
        chunks = [c for c in stream.unacknowledged() if c.sequence >= stream.kept_below]
        if chunks:
            self._outbox.keep_chunks(stream.buffer.ref, chunks)
            stream.kept_below = stream.buffer.next_sequence

    def _forget_kept(self, stream: TokenStream, next_sequence: int) -> None:
        if self._outbox is not None and 0 < stream.kept_below <= next_sequence:
            self._outbox.forget_chunks(stream.buffer.ref, stream.kept_below)
            stream.kept_below = 0

    async def _one_channel(self, backoff: Backoff) -> None:
        channel = self._client.open_token_channel(self._registrar.worker_id)
        self._progress_at = self._clock()
        self._ahead = 0
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._send(channel))
                group.create_task(self._receive(channel, backoff))
        finally:
            channel.close()

    async def _send(self, channel: Channel) -> None:
        while True:
            self._wake.clear()
            now = self._clock()
            if self._may_send:
                chunks = [c for s in list(self._streams.values()) for c in s.buffer.cut(now)]
                for message in _messages(chunks):
                    self._ahead += 1
                    await channel.send(message)
            await self._sleep_until_due(self._clock())

    @property
    def _may_send(self) -> bool:
        return self._ahead < MESSAGES_AHEAD

    async def _sleep_until_due(self, now: float) -> None:
        due = math.inf
        if self._may_send:
            waiting = (s.buffer.due for s in self._streams.values() if s.buffer.has_unsent)
            due = min(waiting, default=math.inf)
        stalled_at = math.inf
        if self._outstanding():
            stalled_at = self._progress_at + STALL_SECONDS
            if now >= stalled_at:
                raise CortexUnavailableError(
                    f"CORTEX acknowledged no token for {STALL_SECONDS:g} s"
                )
        else:
            self._progress_at = now
        wake_at = min(due, stalled_at)
        waits_for_answer = not self._may_send and stalled_at < math.inf
        self._next_wake = -math.inf if waits_for_answer else wake_at
        try:
            async with asyncio.timeout_at(None if wake_at == math.inf else wake_at):
                await self._wake.wait()
        except TimeoutError:
            pass
        if not self._outstanding():
            self._progress_at = self._clock()

    async def _receive(self, channel: Channel, backoff: Backoff) -> None:
        async for acks in channel.acknowledgements():
            backoff.reset()
            for ack in acks:
                self._apply(ack)
            self._progress_at = self._clock()
            self._note_answer()
            if self._metrics is not None:
                self._metrics.unacknowledged_bytes.set(self._bytes)
        raise CortexUnavailableError("CORTEX closed the token stream")

    def _note_answer(self) -> None:
        """Each message has one answer; the sender may have waited for it."""
        if not self._may_send:
            self._wake.set()
        self._ahead -= 1

    def _apply(self, ack: StreamAck) -> None:
        stream = self._streams.get(ack.ref)
        if stream is None:
            return
        if ack.verdict is Verdict.STALE:
            stream.close()
            self._keeper.lose(ack.ref, LeaseLoss.STALE)
            return
        if stream.buffer.lacks_chunks(ack.next_sequence):
            logger.warning("chunks_lost", job_id=ack.ref.job_id, attempt=ack.ref.attempt)
            stream.close()
            return
        stream.buffer.acknowledge(ack.next_sequence)
        self._forget_kept(stream, ack.next_sequence)
        self._recount(stream)
        if ack.verdict is Verdict.CANCELLED:
            self._keeper.lose(ack.ref, LeaseLoss.CANCELLED)
        if stream.buffer.drained:
            stream.done.set()

    def _outstanding(self) -> bool:
        return any(s.buffer.unacknowledged or s.buffer.has_unsent for s in self._streams.values())

    def _recount(self, stream: TokenStream) -> None:
        self._bytes += stream.buffer.size_bytes - stream.counted_bytes
        stream.counted_bytes = stream.buffer.size_bytes
        if self._bytes > self._limit:
            self._room.clear()
        else:
            self._room.set()


def _messages(chunks: Iterable[StreamChunk]) -> Iterator[list[StreamChunk]]:
    """Put chunks into messages that CORTEX takes."""
    message: list[StreamChunk] = []
    room = SENDABLE_BYTES
    for chunk in chunks:
        size = wire_size(chunk)
        if message and (len(message) >= MESSAGE_CHUNKS or size > room):
            yield message
            message, room = [], SENDABLE_BYTES
        message.append(chunk)
        room -= size
    if message:
        yield message
