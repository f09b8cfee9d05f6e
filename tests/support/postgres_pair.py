"""A PostgreSQL with a standby that has all it commits, behind one address that can be switched."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import psycopg
from postgres_tools import OwnServer, own_server

SOCKET = ".s.PGSQL.5432"
PIECE_BYTES = 64 * 1024


class PostgresPair:
    """Two servers; `primary_socket` and `standby_socket` are where they answer."""

    def __init__(self, primary: OwnServer, standby: Path) -> None:
        self.primary = primary
        self._standby = standby
        with psycopg.connect(primary.url) as session:
            shown = session.execute("SHOW unix_socket_directories").fetchone()
        assert shown is not None
        self.primary_socket = Path(shown[0]) / SOCKET
        self.standby_socket = standby / SOCKET

    def run(self, statement: str) -> None:
        """Execute a statement on the primary."""
        with psycopg.connect(self.primary.url, autocommit=True) as session:
            session.execute(statement.encode())

    def promote(self) -> None:
        """Let the standby be the primary from now on."""
        self.primary.tool("pg_ctl", "-w", "-D", str(self._standby / "data"), "promote")


@contextmanager
def postgres_pair() -> Iterator[PostgresPair]:
    """Run both until the context ends: what is committed is on both before it is answered."""
    with own_server() as primary, tempfile.TemporaryDirectory(prefix="pg") as name:
        folder = Path(name)
        if primary.system_user is not None:
            shutil.chown(folder, primary.system_user)
        folder.chmod(0o755)
        data = str(folder / "data")
        primary.tool(
            "pg_basebackup", "-d", primary.url, "-D", data, "-R", "-X", "stream", "-c", "fast"
        )
        log = str(folder / "log")
        options = f'-h "" -k {folder}'
        primary.tool("pg_ctl", "-w", "-D", data, "-l", log, "-o", options, "start")
        try:
            pair = PostgresPair(primary, folder)
            pair.run("ALTER SYSTEM SET synchronous_standby_names = '*'")
            pair.run("SELECT pg_reload_conf()")
            yield pair
        finally:
            primary.tool("pg_ctl", "-w", "-D", data, "-m", "immediate", "stop")


class Relay:
    """Takes connections at `folder` and hands each on to where `target` is at that moment."""

    def __init__(self, folder: Path, target: Path) -> None:
        self.target = target
        self.url = f"postgresql://postgres@/postgres?host={folder}"
        self._open: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    def cut(self) -> None:
        """End all connections."""
        for writer in list(self._open):
            writer.transport.abort()

    async def close(self) -> None:
        """End all connections, and return when nothing is left of them."""
        while self._tasks:
            self.cut()
            await asyncio.wait(self._tasks, timeout=0.1)

    async def take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection."""
        ends = [writer]
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            with contextlib.suppress(OSError):  # nobody is there: the caller sees it closed
                up, down = await asyncio.open_unix_connection(str(self.target))
                ends.append(down)
                self._open.update(ends)
                async with asyncio.TaskGroup() as group:
                    group.create_task(_pump(reader, down))
                    group.create_task(_pump(up, writer))
        finally:
            for end in ends:
                self._open.discard(end)
                end.transport.abort()
            self._tasks.discard(task)


async def _pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while piece := await source.read(PIECE_BYTES):
            sink.write(piece)
            await sink.drain()
    sink.transport.abort()


@asynccontextmanager
async def relay_to(target: Path) -> AsyncIterator[Relay]:
    """One address for as long as the context lasts."""
    with tempfile.TemporaryDirectory(prefix="pg") as name:
        relay = Relay(Path(name), target)
        server = await asyncio.start_unix_server(relay.take, str(Path(name) / SOCKET))
        try:
            yield relay
        finally:
            server.close()
            await relay.close()
