"""A PostgreSQL that asks for a password."""

from __future__ import annotations

import asyncio
import os
import sys
from asyncio.subprocess import PIPE
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest
from cortex_tools import StoreTools, TurnableClock
from postgres_tools import own_server

from mnemos.cortex.errors import StartError, StorageUnavailableError
from mnemos.cortex.notifier import LocalNotifier
from mnemos.cortex.records import JobFilter
from mnemos.cortex.sql.postgres.store import PostgresStore

USER, PASSWORD, WRONG = "guarded", "right-and-secret", "wrong-and-secret"


class GuardedServer:
    """A server whose user `guarded` must give a password."""

    def __init__(self, url: str) -> None:
        self._url = url
        self.run(f"CREATE ROLE {USER} LOGIN PASSWORD '{PASSWORD}'")
        self.run(f"CREATE DATABASE jobs OWNER {USER}")

    def run(self, statement: str) -> None:
        with psycopg.connect(self._url, autocommit=True) as session:
            session.execute(statement.encode())

    def url(self, password: str | None) -> str:
        """The URL of the user's database, with a password or without."""
        login = USER if password is None else f"{USER}:{password}"
        parts = urlsplit(self._url)
        return parts._replace(netloc=f"{login}@", path="/jobs").geturl()

    def end_sessions(self) -> None:
        self.run(
            f"SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE usename = '{USER}'"  # noqa: S608
        )


@pytest.fixture(scope="module")
def guarded() -> Iterator[GuardedServer]:
    with own_server() as server:
        rules = server.data / "pg_hba.conf"
        rules.write_text(f"local all {USER} scram-sha-256\n{rules.read_text()}")
        guarded = GuardedServer(server.url)
        guarded.run("SELECT pg_reload_conf()")
        yield guarded


async def start(url: str, data: Path) -> tuple[int, str]:
    """Start CORTEX as a process that must end by itself; its status and what it said."""
    environment = {**os.environ, "CORTEX_DATABASE_URL": url, "CORTEX_DATA_DIR": str(data)}
    environment |= {"CORTEX_HTTP_PORT": "0", "CORTEX_GRPC_PORT": "0"}
    environment.pop("PGPASSWORD", None)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "mnemos.cortex", env=environment, stderr=PIPE, stdout=PIPE
    )
    try:
        async with asyncio.timeout(30):
            stdout, stderr = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode is not None
    return process.returncode, (stdout + stderr).decode()


@pytest.mark.parametrize("password", [WRONG, None])
async def test_a_wrong_password_or_none_is_one_sentence_and_a_1(
    guarded: GuardedServer, tmp_path: Path, password: str | None
) -> None:
    status, said = await start(guarded.url(password), tmp_path)
    assert status == 1
    assert said.count("\n") == 1, said
    assert f"refuses the user {USER}: check the user and the password" in said
    assert WRONG not in said
    with pytest.raises(StartError) as told:
        async with PostgresStore(guarded.url(password), LocalNotifier()):
            pass
    assert told.value.message in said


async def test_the_right_password_opens_it_and_a_change_is_told_and_survived(
    guarded: GuardedServer,
) -> None:
    async with PostgresStore(guarded.url(PASSWORD), LocalNotifier()) as store:
        tools = StoreTools(store, TurnableClock(), LocalNotifier())
        before = await tools.submit()
        guarded.run(f"ALTER ROLE {USER} PASSWORD 'another'")
        during = await tools.submit()  # sessions that are open stay so
        guarded.end_sessions()
        with pytest.raises(StorageUnavailableError, match="password authentication failed") as told:
            await tools.submit()
        assert PASSWORD not in told.value.message
        with pytest.raises(StorageUnavailableError, match="password authentication failed"):
            await store.get_job(before)
        guarded.run(f"ALTER ROLE {USER} PASSWORD '{PASSWORD}'")
        after = await tools.submit()
        listed = {job.job_id for job in await store.list_jobs(JobFilter())}
        assert listed == {before, during, after}
