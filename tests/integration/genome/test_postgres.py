"""What only PostgreSQL brings: restarts, passwords, replicas that start and write at once."""

from __future__ import annotations

import asyncio
import io
import traceback
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2
import psycopg
import pytest
from postgres_tools import EMPTY, OwnServer, Postgres, own_server
from pydantic import SecretStr

from mnemos.cli.engram import EngramTarget
from mnemos.cli.errors import CliError
from mnemos.cli.platform.options import UpOptions
from mnemos.cli.platform.supervisor import Supervisor, genome_server
from mnemos.cortex.sql.postgres.opening import prepare as prepare_cortex
from mnemos.genome.client import GenomeClient
from mnemos.genome.errors import GenomeUnavailableError
from mnemos.genome.models import ModelSpec
from mnemos.genome.opening import open_store
from mnemos.genome.postgres_database import WRITE_LOCK, PostgresDatabase
from mnemos.genome.server import GenomeServer
from mnemos.genome.settings import GenomeSettings
from mnemos.genome.sql_store import SqlModelStore

MakeBody = Callable[..., dict[str, Any]]

USER, PASSWORD = "guarded", "right-and-secret"


def settings_of(url: str) -> GenomeSettings:
    return GenomeSettings(database_url=SecretStr(url), http_port=0)


@pytest.fixture(scope="module")
def own() -> Iterator[OwnServer]:
    """A server that may be crashed, and whose user `guarded` must give a password."""
    with own_server() as server:
        rules = server.data / "pg_hba.conf"
        rules.write_text(f"local all {USER} scram-sha-256\n{rules.read_text()}")
        with psycopg.connect(server.url, autocommit=True) as session:
            session.execute(f"CREATE ROLE {USER} LOGIN PASSWORD '{PASSWORD}'".encode())
            session.execute(f"CREATE DATABASE models OWNER {USER}".encode())
            session.execute("SELECT pg_reload_conf()")
        yield server


def guarded_url(server: OwnServer, password: str) -> str:
    parts = urlsplit(server.url)
    return parts._replace(netloc=f"{USER}:{password}@", path="/models").geturl()


async def test_a_restart_is_told_and_survived(own: OwnServer, make_body: MakeBody) -> None:
    settings = settings_of(guarded_url(own, PASSWORD))
    async with (
        GenomeServer(settings) as server,
        GenomeClient(server.url) as client,
        httpx2.AsyncClient(base_url=server.url, trust_env=False) as http,
    ):
        await client.register(make_body())
        await asyncio.to_thread(own.crash)
        body = make_body(version="2")
        for call in (
            http.get("/api/v1/models/tiny"),
            http.post("/api/v1/models", json=body),
            http.put("/api/v1/models/tiny/tags/prod", json={"version": "1"}),
            http.get("/health/ready"),
        ):
            answer = await call
            assert (answer.status_code, answer.headers["retry-after"]) == (503, "2")
            assert "cannot use the database models on " in answer.text
            assert PASSWORD not in answer.text
        error = (await http.get("/api/v1/models")).json()["error"]
        assert (error["code"], error["field"]) == ("unavailable", None)
        assert (await http.get("/health/live")).status_code == 200
        assert "genome_models NaN" in (await http.get("/metrics")).text
        await asyncio.to_thread(own.start)
        assert (await client.get("tiny")).version == "1"
        assert (await client.register(body)).created
        await client.check_health()
        await asyncio.to_thread(own.crash)
        await asyncio.to_thread(own.start)
        assert (await client.get("tiny")).version == "2", "nobody noticed"


async def test_passwords_are_told_to_nobody(own: OwnServer) -> None:
    said = io.StringIO()
    with redirect_stdout(said), redirect_stderr(said):
        async with GenomeServer(settings_of(guarded_url(own, PASSWORD))):
            pass
    assert "genome.started" in said.getvalue()
    assert PASSWORD not in said.getvalue()
    for password in ("wrong-and-secret", "wrong/and-secret", "wrong@and:secret"):
        with pytest.raises(GenomeUnavailableError) as refused:
            async with GenomeServer(settings_of(guarded_url(own, password))):
                pytest.fail("it started")
        assert "GENOME_DATABASE_URL" in refused.value.message
        assert "secret" not in refused.value.message
    assert PASSWORD not in repr(settings_of(guarded_url(own, PASSWORD)))
    database = PostgresDatabase(guarded_url(own, PASSWORD))
    told = database._explain(psycopg.OperationalError(f"no {PASSWORD} here"))
    assert told.endswith(": no *** here.")
    await database.close()


async def test_replicas_start_at_once_and_one_order_holds_for_all(
    postgres: Postgres, make_body: MakeBody
) -> None:
    with postgres.database(template=EMPTY) as url:
        async with AsyncExitStack() as stack:
            async with asyncio.TaskGroup() as group:
                opening = [
                    group.create_task(stack.enter_async_context(open_store(settings_of(url))))
                    for _ in range(4)
                ]
            stores = [task.result() for task in opening]

            async def register(number: int) -> bool:
                spec = ModelSpec.model_validate(make_body(version=f"{number % 6}"))
                return (await stores[number % 4].register(spec)).created

            async with asyncio.TaskGroup() as group:
                calls = [group.create_task(register(number)) for number in range(24)]
            assert sum(call.result() for call in calls) == 6
            assert await stores[1].count() == 6


async def test_a_database_that_does_not_answer_is_not_waited_for(
    postgres: Postgres, make_body: MakeBody
) -> None:
    with postgres.database(template=EMPTY) as url:
        database = PostgresDatabase(url)
        await database.open()
        store = SqlModelStore(database)
        spec = ModelSpec.model_validate(make_body())
        with psycopg.connect(url) as holder:
            holder.execute(f"SELECT pg_advisory_xact_lock({WRITE_LOCK})".encode())
            database.answer_seconds = 0.1
            with pytest.raises(GenomeUnavailableError, match="too slow to answer"):
                await store.register(spec)
        database.answer_seconds = 20.0
        await store.register(spec)
        assert await store.count() == 1
        await database.close()


async def test_one_database_serves_genome_and_cortex(postgres: Postgres) -> None:
    with postgres.database(template=EMPTY) as url:
        await asyncio.to_thread(prepare_cortex, url)
        async with GenomeServer(settings_of(url)):
            pass
        await asyncio.to_thread(prepare_cortex, url)
        async with GenomeServer(settings_of(url)) as server, GenomeClient(server.url) as client:
            assert (await client.list()).models == []


async def test_what_is_not_there_is_one_sentence(postgres: Postgres, own: OwnServer) -> None:
    with postgres.database(template=EMPTY) as url:
        gone = url
    with pytest.raises(GenomeUnavailableError, match="does not exist"):
        async with GenomeServer(settings_of(gone)):
            pytest.fail("it started")
    with pytest.raises(
        GenomeUnavailableError, match=r"cannot use the database x on 127\.0\.0\.1: "
    ):
        async with GenomeServer(settings_of("postgresql://u@127.0.0.1:9/x")):
            pytest.fail("it started")


def test_mnemos_up_takes_the_variable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("GENOME_DATABASE_URL", f"postgresql://me:{PASSWORD}@here/models")
    engram = EngramTarget.of(None, None, tmp_path)
    server = genome_server(UpOptions(data_dir=tmp_path, engram=engram))
    url = server._settings.database_url
    assert url is not None
    assert url.get_secret_value().endswith("@here/models")
    monkeypatch.setenv("GENOME_DATABASE_URL", f"mysql://me:{PASSWORD}@here/models")
    with pytest.raises(ValueError, match="must begin with postgresql://") as refused:
        GenomeSettings()
    assert PASSWORD not in str(refused.value)
    monkeypatch.setenv("GENOME_DATABASE_URL", "")
    assert GenomeSettings().database_url is None


@pytest.mark.parametrize("service", ["GENOME", "CORTEX"])
async def test_mnemos_up_names_a_wrong_variable_and_not_its_password(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, service: str
) -> None:
    monkeypatch.setenv(f"{service}_DATABASE_URL", f"mysql://me:{PASSWORD}@here/models")
    options = UpOptions(
        data_dir=tmp_path,
        engram=EngramTarget.of(None, None, tmp_path),
        workers=0,
        http_port=0,
        grpc_port=0,
        genome_port=0,
    )
    with pytest.raises(CliError) as refused:
        await Supervisor(options, say=print, on_ready=print).run()
    assert refused.value.message == f"{service}_DATABASE_URL: must begin with postgresql://."
    shown = "".join(traceback.format_exception(refused.value))
    assert PASSWORD not in shown
