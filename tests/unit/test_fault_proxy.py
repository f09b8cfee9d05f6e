"""The faults that a proxy makes are those that were asked for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from fault_proxy import FaultProxy, Way


class Echo:
    """A server that says everything back, and remembers it."""

    def __init__(self) -> None:
        self.heard = bytearray()
        self.port = 0

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while piece := await reader.read(1000):
                self.heard += piece
                writer.write(piece)
                await writer.drain()
        except OSError:
            return
        finally:
            writer.close()

    async def until_heard(self, count: int) -> None:
        async with asyncio.timeout(5):
            while len(self.heard) < count:  # noqa: ASYNC110 - the other end's bytes make no event
                await asyncio.sleep(0.005)


@pytest.fixture
async def echo() -> AsyncIterator[Echo]:
    echo = Echo()
    listener = await asyncio.start_server(echo.answer, "127.0.0.1", 0)
    echo.port = listener.sockets[0].getsockname()[1]
    async with listener:
        yield echo


@pytest.fixture
async def proxy(echo: Echo) -> AsyncIterator[FaultProxy]:
    async with FaultProxy("127.0.0.1", echo.port) as proxy:
        yield proxy


class Client:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    def say(self, text: bytes) -> None:
        self._writer.write(text)

    def end(self) -> None:
        self._writer.write_eof()

    async def hear(self, count: int) -> bytes:
        async with asyncio.timeout(5):
            return await self._reader.readexactly(count)

    async def hear_the_rest(self) -> bytes:
        async with asyncio.timeout(5):
            return await self._reader.read()

    async def is_silent(self, seconds: float = 0.1) -> bool:
        try:
            async with asyncio.timeout(seconds):
                await self._reader.readexactly(1)
        except TimeoutError:
            return True
        return False


@asynccontextmanager
async def dialled(proxy: FaultProxy) -> AsyncIterator[Client]:
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    try:
        yield Client(reader, writer)
    finally:
        writer.transport.abort()


async def test_it_forwards_both_ways_up_to_the_end(proxy: FaultProxy) -> None:
    async with dialled(proxy) as client:
        client.say(b"a" * 100_000)
        client.end()
        assert await client.hear_the_rest() == b"a" * 100_000
    assert (proxy.faults.connections, proxy.faults.cuts) == (1, 0)


async def test_what_is_held_goes_on_when_it_is_released(proxy: FaultProxy, echo: Echo) -> None:
    async with dialled(proxy) as client:
        proxy.hold(Way.UP)
        client.say(b"abc")
        assert await client.is_silent()
        assert not echo.heard
        assert (proxy.holding, proxy.faults.held_bytes) == (1, 3)
        proxy.release()
        assert await client.hear(3) == b"abc"


async def test_answers_alone_may_be_held(proxy: FaultProxy, echo: Echo) -> None:
    async with dialled(proxy) as client:
        proxy.hold(Way.DOWN)
        client.say(b"abc")
        await echo.until_heard(3)
        assert await client.is_silent()
        proxy.release()
        assert await client.hear(3) == b"abc"


async def test_a_cut_resets_what_is_open_and_nothing_else(proxy: FaultProxy) -> None:
    async with dialled(proxy) as first:
        first.say(b"a")
        await first.hear(1)
        assert proxy.cut() == 1
        with pytest.raises(ConnectionResetError):
            await first.hear_the_rest()
    async with dialled(proxy) as second:
        second.say(b"b")
        assert await second.hear(1) == b"b"
    assert proxy.faults.cuts == 1


async def test_what_is_held_is_lost_in_a_cut(proxy: FaultProxy, echo: Echo) -> None:
    async with dialled(proxy) as client:
        client.say(b"a")
        await client.hear(1)
        proxy.hold()
        client.say(b"bc")
        assert await client.is_silent()
        proxy.cut()
        proxy.release()
        with pytest.raises(ConnectionResetError):
            await client.hear_the_rest()
    assert bytes(echo.heard) == b"a"


async def test_a_cut_may_come_after_a_number_of_bytes(proxy: FaultProxy, echo: Echo) -> None:
    async with dialled(proxy) as client:
        proxy.cut_after(5, Way.UP)
        client.say(b"abc")
        assert await client.hear(3) == b"abc"
        client.say(b"defg")
        with pytest.raises(ConnectionResetError):
            await client.hear_the_rest()
    assert b"abc" <= bytes(echo.heard) <= b"abcde"
    assert proxy.faults.cuts == 1


async def test_dropped_answers_never_come_and_their_requests_do(
    proxy: FaultProxy, echo: Echo
) -> None:
    async with dialled(proxy) as client:
        proxy.drop_answers()
        client.say(b"abc")
        await echo.until_heard(3)
        assert await client.is_silent()
        assert proxy.faults.dropped_bytes == 3
        proxy.release()
        with pytest.raises(ConnectionResetError):
            await client.hear_the_rest()
    async with dialled(proxy) as client:
        client.say(b"d")
        assert await client.hear(1) == b"d"


async def test_each_piece_is_delayed(proxy: FaultProxy) -> None:
    clock = asyncio.get_running_loop().time
    proxy.delay_seconds = 0.05
    async with dialled(proxy) as client:
        began = clock()
        client.say(b"a")
        await client.hear(1)
        assert clock() - began >= 0.1


async def test_a_server_that_is_away_is_away_behind_the_proxy_too() -> None:
    async with FaultProxy("127.0.0.1", 1) as proxy, dialled(proxy) as client:
        with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
            await client.hear(1)
