"""Hearing what other replicas have committed."""

from __future__ import annotations

import asyncio
import os
import selectors
import threading
from collections.abc import Iterable
from contextlib import suppress

import psycopg
import structlog

from ...notifier import Notifier
from .connection import PostgresConnection, connect
from .notices import CHANNEL, EVERYTHING, read_payload

RETRY_SECONDS = 0.25

_log = structlog.get_logger(__name__)


class Listener:
    """Passes other replicas' topics on to a Notifier, from a thread with its own connection.

    While the connection is lost nothing is heard: everybody is woken once it is there again.
    """

    def __init__(self, url: str, replica: str, notifier: Notifier) -> None:
        self._url = url
        self._replica = replica
        self._notifier = notifier
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ended = threading.Event()
        self._ear, self._mouth = os.pipe()

    async def start(self) -> None:
        """Start to listen, in the calling loop's name; return once the first connection stands."""
        self._loop = asyncio.get_running_loop()
        first = await asyncio.to_thread(self._connect)
        self._thread = threading.Thread(
            target=self._main, args=(first,), name="cortex-listener", daemon=True
        )
        self._thread.start()

    async def close(self) -> None:
        """End the thread and its connection."""
        self._ended.set()
        os.write(self._mouth, b".")
        if self._thread is not None:
            await asyncio.to_thread(self._thread.join)
        os.close(self._ear)
        os.close(self._mouth)

    def wake_all(self) -> None:
        """Wake everybody who waits, from any thread: something may have been missed."""
        self._pass_on([EVERYTHING])

    # ------------------------------------------------ in the listener's thread

    def _connect(self) -> PostgresConnection:
        connection = connect(self._url, f"cortex listener {self._replica}")
        connection.execute(f"LISTEN {CHANNEL}")
        return connection

    def _main(self, connection: PostgresConnection | None) -> None:
        while not self._ended.is_set():
            try:
                if connection is None:
                    connection = self._connect()
                    self.wake_all()
                self._listen(connection)
            except psycopg.Error as error:
                _log.warning("listener.lost", error=str(error).strip())
                _close(connection)
                connection = None
                self._ended.wait(RETRY_SECONDS)
        _close(connection)

    def _listen(self, connection: PostgresConnection) -> None:
        """Pass on what is heard, until the connection is lost or the listener is closed."""
        with selectors.DefaultSelector() as selector:
            selector.register(connection.session.fileno(), selectors.EVENT_READ)
            selector.register(self._ear, selectors.EVENT_READ)
            while not self._ended.is_set():
                for notice in connection.session.notifies(timeout=0):
                    sender, topics = read_payload(notice.payload)
                    if sender != self._replica:
                        self._pass_on(topics)
                selector.select()

    def _pass_on(self, topics: Iterable[str]) -> None:
        assert self._loop is not None
        told = list(topics)
        with suppress(RuntimeError):  # the loop has ended before us: nobody waits any more
            if EVERYTHING in told:
                self._loop.call_soon_threadsafe(self._notifier.wake_all)
            else:
                self._loop.call_soon_threadsafe(self._notifier.notify, told)


def _close(connection: PostgresConnection | None) -> None:
    if connection is not None:
        connection.close()
