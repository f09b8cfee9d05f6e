"""A proxy before an HTTP server that carries requests there and loses some of the answers."""

from __future__ import annotations

import asyncio
import random
from types import TracebackType
from typing import Self

PIECE_BYTES = 64 * 1024
ANSWER = b"HTTP/1.1 "


class AnswerDropper:
    """Cuts a connection instead of passing on an answer, `share` of the time.

    It knows an answer by its first line, so clients must not pipeline requests. An async context
    manager; leaving it cuts what is open.
    """

    def __init__(self, port: int, share: float, dice: random.Random) -> None:
        self.port = 0
        self.answers = 0
        self.dropped = 0
        self._target = port
        self._share = share
        self._dice = dice
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        upstream = None
        try:
            answers, upstream = await asyncio.open_connection("127.0.0.1", self._target)
            await self._carry(reader, upstream, answers, writer)
        except (OSError, asyncio.CancelledError):
            pass  # an end went away, or the test is over: both connections are cut below
        finally:
            self._tasks.discard(task)
            writer.transport.abort()
            if upstream is not None:
                upstream.transport.abort()

    async def _carry(
        self,
        reader: asyncio.StreamReader,
        upstream: asyncio.StreamWriter,
        answers: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        async with asyncio.TaskGroup() as group:
            requests = group.create_task(_pump(reader, upstream))
            while piece := await answers.read(PIECE_BYTES):
                if piece.startswith(ANSWER) and self._loses():
                    break
                writer.write(piece)
            requests.cancel()

    def _loses(self) -> bool:
        self.answers += 1
        lost = self._dice.random() < self._share
        self.dropped += lost
        return lost


async def _pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    try:
        while piece := await source.read(PIECE_BYTES):
            sink.write(piece)
        sink.write_eof()
    except OSError:
        sink.transport.abort()
