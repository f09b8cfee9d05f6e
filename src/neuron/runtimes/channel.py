"""Framed messages over a Unix socket, on an event loop."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Any, Generic, TypeVar, cast

from .messages import FrameDecoder, FrameError, Message, encode_frame

M = TypeVar("M")


class Channel(asyncio.Protocol, Generic[M]):
    """One end of a socket pair. All methods belong to the event loop's thread.

    `on_message` gets every message, in order; `on_closed` is called once: with None when the
    other side went away, or with what made its bytes unreadable.
    """

    def __init__(
        self,
        message_type: Any,
        on_message: Callable[[M], None],
        on_closed: Callable[[str | None], None],
    ) -> None:
        self._decoder: FrameDecoder[M] = FrameDecoder(message_type)
        self._on_message = on_message
        self._on_closed = on_closed
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._writable = asyncio.Event()
        self._outgoing: list[bytes] = []
        self._reason: str | None = None

    async def open(self, sock: socket.socket) -> None:
        """Take the socket over."""
        sock.setblocking(False)
        await self._loop.create_unix_connection(lambda: self, sock=sock)

    def send(self, message: Message) -> None:
        """Queue a message; all that one turn of the loop sends leaves in one write.

        Raises:
            FrameError: the message is too large. Nothing was sent.
        """
        frame = encode_frame(message)
        if not self._outgoing:
            self._loop.call_soon(self._flush)
        self._outgoing.append(frame)

    async def drain(self) -> None:
        """Wait until the other side keeps up, or is gone."""
        await self._writable.wait()

    def close(self) -> None:
        """Send what is queued, then hang up."""
        if self._transport is not None:
            self._flush()
            self._transport.close()

    def _flush(self) -> None:
        outgoing, self._outgoing = self._outgoing, []
        if outgoing and self._transport is not None and not self._transport.is_closing():
            self._transport.write(b"".join(outgoing))

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._writable.set()

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def data_received(self, data: bytes) -> None:
        try:
            for message in self._decoder.feed(data):
                self._on_message(message)
        except FrameError as error:
            self._reason = str(error)
            assert self._transport is not None
            self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._writable.set()
        self._on_closed(self._reason)
