"""A TCP proxy to one server, with switches for what networks do to connections."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from dataclasses import dataclass
from enum import Enum
from types import TracebackType
from typing import Self

PIECE_BYTES = 64 * 1024
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


class Way(Enum):
    """Which way bytes go."""

    UP = "to the server"
    DOWN = "to the client"


BOTH = frozenset(Way)


@dataclass(slots=True, eq=False)
class _Pair:
    """A client's connection and the one to the server that was opened for it."""

    client: asyncio.StreamWriter
    server: asyncio.StreamWriter
    lacks_bytes: bool = False
    waiting: int = 0

    def reset(self) -> None:
        """Close both at once, with RST: what was not delivered yet is lost."""
        for writer in (self.client, self.server):
            with contextlib.suppress(OSError):  # it is closed already
                writer.get_extra_info("socket").setsockopt(
                    socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE
                )
            writer.transport.abort()


@dataclass(slots=True)
class Faults:
    """What a proxy has done."""

    connections: int = 0
    cuts: int = 0
    held_bytes: int = 0
    dropped_bytes: int = 0
    brought_bytes: int = 0
    """Passed on to clients."""


class FaultProxy:
    """Forwards each connection to `host:port`, as an async context manager.

    Leaving it closes its port and cuts what is open. All switches work on open connections and on
    those to come, and belong to the loop's thread.
    """

    def __init__(self, host: str, port: int) -> None:
        self._target = host, port
        self._pairs: set[_Pair] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._open = {way: asyncio.Event() for way in Way}
        self._drops_answers = False
        self._left: dict[Way, int] = {}
        self._listener: asyncio.Server | None = None
        self.delay_seconds = 0.0
        """How long each piece of bytes waits before it goes on."""
        self.faults = Faults()
        self.port = 0
        self.release()

    @property
    def address(self) -> str:
        """Where clients dial."""
        return f"127.0.0.1:{self.port}"

    async def __aenter__(self) -> Self:
        self._listener = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._listener.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._listener is not None
        self._listener.close()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    @property
    def holding(self) -> int:
        """How many connections have something that is held now."""
        return sum(pair.waiting > 0 for pair in self._pairs)

    def hold(self, *ways: Way) -> None:
        """Let nothing through, one way or (unless told which) both, until release()."""
        for way in ways or BOTH:
            self._open[way].clear()

    def release(self) -> None:
        """Let everything through again; what was held goes on, and what lacks bytes is cut."""
        self._drops_answers = False
        for pair in list(self._pairs):
            if pair.lacks_bytes:
                self._cut(pair)
        for gate in self._open.values():
            gate.set()

    def drop_answers(self) -> None:
        """Throw away what the server says until release(): the requests are carried out."""
        self._drops_answers = True

    def cut(self) -> int:
        """Reset every open connection now; return how many there were."""
        pairs = list(self._pairs)
        for pair in pairs:
            self._cut(pair)
        return len(pairs)

    def cut_after(self, count: int, way: Way) -> None:
        """Reset every connection once `count` more bytes, over all of them, have gone `way`."""
        self._left[way] = count

    def _cut(self, pair: _Pair) -> None:
        if pair in self._pairs:
            self._pairs.discard(pair)
            self.faults.cuts += 1
            pair.reset()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            await self._forward(reader, writer)
        except OSError:
            writer.transport.abort()  # the server takes no connection: neither do we
        except asyncio.CancelledError:
            writer.transport.abort()  # by __aexit__, whose task this is, as the listener's
        finally:
            self._tasks.discard(task)

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answers, upstream = await asyncio.open_connection(*self._target)
        pair = _Pair(writer, upstream)
        self._pairs.add(pair)
        self.faults.connections += 1
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pump(pair, Way.UP, reader, upstream))
                group.create_task(self._pump(pair, Way.DOWN, answers, writer))
        finally:
            self._pairs.discard(pair)
            upstream.transport.abort()
            writer.transport.abort()

    async def _pump(
        self, pair: _Pair, way: Way, source: asyncio.StreamReader, sink: asyncio.StreamWriter
    ) -> None:
        try:
            while piece := await source.read(PIECE_BYTES):
                await self._pass_on(pair, way, piece, sink)
            sink.write_eof()
        except OSError:
            pair.reset()

    async def _pass_on(
        self, pair: _Pair, way: Way, piece: bytes, sink: asyncio.StreamWriter
    ) -> None:
        if self.delay_seconds:
            await asyncio.sleep(self.delay_seconds)
        if not self._open[way].is_set():
            self.faults.held_bytes += len(piece)
            pair.waiting += 1
            await self._open[way].wait()
            pair.waiting -= 1
        if way is Way.DOWN and self._drops_answers:
            self.faults.dropped_bytes += len(piece)
            pair.lacks_bytes = True
            return
        left = self._left.get(way)
        if way is Way.DOWN:
            self.faults.brought_bytes += len(piece)
        if left is not None and len(piece) >= left:
            del self._left[way]
            sink.write(piece[:left])
            self.cut()
            return
        if left is not None:
            self._left[way] = left - len(piece)
        sink.write(piece)
        await sink.drain()
