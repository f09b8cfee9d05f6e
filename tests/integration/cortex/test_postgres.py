"""What is PostgreSQL's own: opening it, its clock, commits whose connection is lost."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Collection
from urllib.parse import urlsplit

import psycopg
import pytest
from cortex_old_jobs import check_old_jobs, old_jobs
from cortex_tools import LEASE, StoreTools, TurnableClock, running_cortex
from postgres_tools import Postgres
from pydantic import SecretStr, ValidationError
from sqlalchemy import create_engine, inspect
from store_chaos import check_books, check_log

from mnemos.cortex.errors import JobNotFoundError, StartError, StorageUnavailableError
from mnemos.cortex.notifier import LocalNotifier
from mnemos.cortex.records import AttemptRef, Chunk, Fence, JobFilter, Report, StatusUpdate
from mnemos.cortex.settings import CortexSettings
from mnemos.cortex.sql.engine import Connection
from mnemos.cortex.sql.postgres.connection import PostgresConnection, connect
from mnemos.cortex.sql.postgres.engine import PostgresEngine
from mnemos.cortex.sql.postgres.opening import prepare
from mnemos.cortex.sql.postgres.store import PostgresStore
from mnemos.cortex.sql.schema import metadata
from mnemos.cortex.state_machine import JobState

Table = dict[str, object]


def description(url: str) -> dict[str, Table]:
    """Everything about a database's schema that matters."""
    engine = create_engine("postgresql+psycopg://", creator=lambda: psycopg.connect(url))
    try:
        inspector = inspect(engine)
        names = set(inspector.get_table_names()) - {"alembic_version"}
        return {name: _described(inspector, name) for name in names}
    finally:
        engine.dispose()


def _described(inspector: object, table: str) -> Table:
    look = inspector
    columns = {
        column["name"]: (str(column["type"]), column["nullable"], column["default"])
        for column in look.get_columns(table)  # type: ignore[attr-defined]  # SQLAlchemy's Inspector
    }
    indexes = {
        one["name"]: (one["column_names"], str(one["dialect_options"].get("postgresql_where")))
        for one in look.get_indexes(table)  # type: ignore[attr-defined]  # the same
    }
    keys = look.get_pk_constraint(table)["constrained_columns"]  # type: ignore[attr-defined]
    return {"columns": columns, "indexes": indexes, "keys": keys}


def test_the_migrations_build_the_schema_that_the_code_uses(
    postgres_url: str, postgres_empty: str
) -> None:
    engine = create_engine("postgresql+psycopg://", creator=lambda: psycopg.connect(postgres_empty))
    metadata.create_all(engine)
    engine.dispose()
    prepare(postgres_url)
    assert description(postgres_url) == description(postgres_empty)


async def test_a_server_that_is_not_there_is_one_sentence() -> None:
    url = "postgresql://cortex:secret@127.0.0.1:1/jobs"
    with pytest.raises(StartError, match=r"jobs on 127\.0\.0\.1 cannot be reached") as told:
        async with PostgresStore(url, LocalNotifier()):
            pass
    assert "secret" not in told.value.message


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"path": "/nowhere"}, "The database nowhere on .* does not exist: create it"),
        ({"netloc": "stranger:secret@"}, "refuses the user stranger: check the user"),
    ],
)
async def test_what_the_server_refuses_is_one_sentence(
    postgres_url: str, change: dict[str, str], sentence: str
) -> None:
    url = urlsplit(postgres_url)._replace(**change).geturl()
    with pytest.raises(StartError, match=sentence) as told:
        async with PostgresStore(url, LocalNotifier()):
            pass
    assert "secret" not in told.value.message


async def test_a_url_that_cannot_be_read_is_one_sentence() -> None:
    with pytest.raises(StartError, match="CORTEX_DATABASE_URL cannot be read"):
        async with PostgresStore("postgresql://host/jobs?colour=blue", LocalNotifier()):
            pass


async def test_a_database_of_something_else_is_left_alone(postgres_empty: str) -> None:
    with psycopg.connect(postgres_empty) as session:
        session.execute("CREATE TABLE jobs (mine text)")
    with pytest.raises(StartError, match='cannot be used: relation "jobs" already exists'):
        async with PostgresStore(postgres_empty, LocalNotifier()):
            pass
    with psycopg.connect(postgres_empty) as session:
        left = session.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
        assert left.fetchall() == [("jobs",)]


def test_only_postgresql_has_a_url() -> None:
    with pytest.raises(ValidationError, match="must begin with postgresql://"):
        CortexSettings(database_url=SecretStr("mysql://host/jobs"))
    assert CortexSettings(database_url=SecretStr("")).database_url is None


async def test_a_server_with_a_database_url_keeps_its_jobs_there(
    settings: CortexSettings, postgres_url: str
) -> None:
    changed = settings.model_copy(update={"database_url": SecretStr(postgres_url)})
    async with running_cortex(changed) as cortex:
        job_id = await cortex.hold()
        await cortex.complete(job_id)
        assert (await cortex.http.get("/ready")).status_code == 200
    async with running_cortex(changed) as cortex:
        assert (await cortex.job(job_id))["status"] == "completed"
    assert not settings.data_dir.exists()


async def test_the_databases_clock_decides(postgres: Postgres, postgres_url: str) -> None:
    async with PostgresStore(postgres_url, LocalNotifier(), lease_seconds=LEASE) as store:
        tools = StoreTools(store, TurnableClock(), LocalNotifier())
        job_id = await tools.hold()
        job = await store.get_job(job_id)
        assert abs(job.submitted_at - time.time()) < 60
        assert (await store.reap()).leases_expired == 0


async def test_a_nul_is_kept_as_a_sign_that_can_be_stored(postgres_tools: StoreTools) -> None:
    job_id = await postgres_tools.hold(max_retries=0)
    said = Report(
        job_id=job_id, attempt=1, status=JobState.FAILED, error="a\0b", error_code="internal"
    )
    await postgres_tools.store.report("wrk_a", [said])
    assert (await postgres_tools.store.get_job(job_id)).error == "a\ufffdb"


async def test_operations_that_fail_leave_nothing_and_do_not_spoil_their_neighbours(
    postgres_tools: StoreTools,
) -> None:
    tools = postgres_tools

    async def fail_at_once() -> None:
        with pytest.raises(JobNotFoundError):
            await tools.store.cancel_job("job_nowhere")

    async def fail_half_way() -> None:
        clash = tools.new_job()
        with pytest.raises(psycopg.errors.UniqueViolation):
            await tools.store.submit([tools.new_job(), clash, clash])

    async with asyncio.TaskGroup() as group:
        for number in range(20):
            group.create_task(tools.store.submit([tools.new_job()]))
            group.create_task(fail_at_once() if number % 2 else fail_half_way())
    assert len(await tools.store.list_jobs(JobFilter(limit=100))) == 20
    await check_books(tools)


async def test_nothing_of_a_job_stays_when_it_is_forgotten(
    postgres_tools: StoreTools, postgres_url: str
) -> None:
    tools = postgres_tools
    gone, kept = await tools.hold(), await tools.submit()
    await tools.store.append_chunks("wrk_a", [Chunk(gone, 1, 0, "t", [1])])
    said = Report(job_id=gone, attempt=1, status=JobState.COMPLETED, result="1")
    await tools.store.report("wrk_a", [said])
    tools.clock.turn(100)
    assert (await tools.store.prune_logs(50, 0)).jobs == 1
    old = await tools.store.find_old_jobs(50, 0)
    assert (await tools.store.prune_jobs(old)).jobs == 1
    assert [job.job_id for job in await tools.store.list_jobs(JobFilter())] == [kept]
    count = """
        SELECT (SELECT COUNT(*) FROM attempts), (SELECT COUNT(*) FROM job_results),
            (SELECT COUNT(*) FROM job_inputs), (SELECT COUNT(*) FROM job_events)
    """
    with psycopg.connect(postgres_url) as session:
        assert session.execute(count).fetchone() == (0, 0, 1, 1)


async def test_jobs_of_the_version_before_are_found_by_what_finds_them_now(
    postgres_empty: str, clock: TurnableClock, notifier: LocalNotifier
) -> None:
    prepare(postgres_empty, "0007")
    with psycopg.connect(postgres_empty, autocommit=True) as session:
        session.execute(old_jobs(clock.now).encode())
        session.execute("SELECT setval(pg_get_serial_sequence('jobs', 'seq'), 10)")
    async with PostgresStore(postgres_empty, notifier, clock=clock, lease_seconds=LEASE) as store:
        await check_old_jobs(StoreTools(store, clock, notifier))


async def test_what_writes_never_reads_a_table_whole(
    postgres_tools: StoreTools,
) -> None:
    tools = postgres_tools

    async def reads() -> int:
        flush = "SELECT pg_stat_force_next_flush()"
        await tools.store._writer.run(lambda tx: tx.one(flush, {}))  # type: ignore[attr-defined]
        count = """
            SELECT SUM(seq_scan) AS reads FROM pg_stat_user_tables
            WHERE relname IN ('jobs', 'job_inputs', 'queue', 'attempts', 'finished', 'job_events')
        """
        row = await tools.store._writer.run(lambda tx: tx.one(count, {}))  # type: ignore[attr-defined]
        return int(row["reads"])

    await tools.register(slots=100)
    before = await reads()
    for number in range(8):  # often enough for plans that are kept
        keys = [f"{number}/{n}" for n in "abc"]
        await tools.store.submit([tools.new_job(idempotency_key=key, group="g") for key in keys])
        leased = await tools.claim(max_jobs=3, request_id=f"r{number}")
        held = [one.job.job_id for one in leased]
        await tools.store.renew("wrk_a", [AttemptRef(job_id, 1) for job_id in held])
        chunks = [Chunk(job_id, 1, 0, "t", [1]) for job_id in held]
        await tools.store.append_chunks("wrk_a", chunks)
        said = [Report(job_id=held[0], attempt=1, status=JobState.COMPLETED, result="1")]
        await tools.store.report("wrk_a", said)
        await tools.store.release("wrk_a", [tools.handed_back(held[1], 1)])
        tools.clock.turn(LEASE + 1)
        await tools.store.reap()
        await tools.store.promote_due()
    assert await reads() == before


async def test_values_of_every_kind_go_there_and_come_back(postgres_url: str) -> None:
    connection = connect(postgres_url, "values")
    try:
        asked = {"a": 2**40, "b": 0.1, "c": "é \\ ' \" ,{}", "d": True, "e": None, "f": ["x,", '"']}
        query = """
            SELECT :a + 1 AS a, :b AS b, CAST(:c AS text) AS c, :d AS d, CAST(:e AS text) AS e,
                array_to_string(CAST(:f AS text[]), ' ') AS f
        """
        for _ in range(3):  # the first time it is not prepared
            [row] = connection.execute(query, asked).fetchall()
            assert row == {**asked, "a": 2**40 + 1, "f": 'x, "'}
        mixed = [connection.execute("SELECT CAST(:x AS float8) AS x", {"x": x}) for x in (1, 0.5)]
        assert [rows.fetchone() for rows in mixed] == [{"x": 1.0}, {"x": 0.5}]
        [row] = connection.execute("SELECT CAST(:x AS text) AS x", {"x": "a\0b"}).fetchall()
        assert row == {"x": "a\ufffdb"}
    finally:
        connection.close()


async def test_statements_that_are_not_used_any_more_are_forgotten(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mnemos.cortex.sql.postgres.connection.PREPARED_STATEMENTS", 5)
    connection = connect(postgres_url, "many statements")
    try:
        for number in range(20):
            for _ in range(2):
                query = f"SELECT CAST(:x AS int) + {number} AS n"
                assert connection.execute(query, {"x": 1}).fetchone() == {"n": number + 1}
        kept = connection.execute("SELECT COUNT(*) AS n FROM pg_prepared_statements").fetchone()
        assert kept is not None
        assert 0 < kept["n"] <= 5
    finally:
        connection.close()


# ------------------------------------------------ connections that are lost


class CutEngine(PostgresEngine):
    """Loses its connection at commits: "before" they are done, or "after", unheard."""

    cuts: list[str] = []  # noqa: RUF012  the test's, there before the engine is

    def commit(self, connection: Connection, topics: Collection[str]) -> None:
        cut = self.cuts.pop(0) if self.cuts else ""
        if cut == "before":
            end_session(connection)
        super().commit(connection, topics)
        if cut == "after":
            end_session(connection)
            connection.execute("SELECT 1")


def end_session(connection: Connection) -> None:
    assert isinstance(connection, PostgresConnection)
    info = connection.session.info
    with psycopg.connect(connection.session.info.dsn) as other:
        other.execute("SELECT pg_terminate_backend(%s, 5000)", [info.backend_pid])


@pytest.fixture
async def postgres_tools(
    postgres_url: str,
    clock: TurnableClock,
    notifier: LocalNotifier,
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[StoreTools]:
    monkeypatch.setattr("mnemos.cortex.sql.postgres.store.PostgresEngine", CutEngine)
    monkeypatch.setattr(CutEngine, "cuts", [])
    async with PostgresStore(
        postgres_url, notifier, lease_seconds=LEASE, clock=clock, random=lambda: 0.5
    ) as store:
        yield StoreTools(store, clock, notifier)


@pytest.mark.parametrize("cut", ["before", "after"])
async def test_what_was_cut_off_at_its_commit_happens_once(
    postgres_tools: StoreTools, cut: str
) -> None:
    tools, store = postgres_tools, postgres_tools.store

    def cut_next() -> None:
        CutEngine.cuts.append(cut)

    await tools.register()
    cut_next()
    job_id = await tools.submit(group="g")
    cut_next()
    [leased] = await tools.claim()
    assert (leased.job.job_id, leased.job.attempt) == (job_id, 1)
    cut_next()
    update = StatusUpdate(job_id, 1, JobState.EXECUTING)
    [verdict] = await store.update_status("wrk_a", [update])
    assert verdict.verdict is Fence.ACCEPTED
    cut_next()
    [ack] = await store.append_chunks("wrk_a", [Chunk(job_id, 1, 0, "t", [1])])
    assert ack.next_sequence == 1
    cut_next()
    failed = Report(job_id=job_id, attempt=1, status=JobState.FAILED, retryable=False)
    [verdict] = await store.report("wrk_a", [failed])
    assert verdict.verdict is Fence.ACCEPTED
    cut_next()
    await store.retry_job(job_id)
    cut_next()
    assert await store.cancel_group("g") == 1
    assert not CutEngine.cuts
    assert [job.job_id for job in await store.list_jobs(JobFilter())] == [job_id]
    await check_books(tools)
    await check_log(tools, job_id)


async def test_sessions_that_end_while_nothing_is_asked_are_replaced(
    postgres: Postgres, postgres_tools: StoreTools, postgres_url: str
) -> None:
    job_id = await postgres_tools.submit()
    with postgres_tools.notifier.subscribe("some topic") as ear:
        postgres.end_sessions(postgres_url)
        assert await ear.wait(10)
    assert (await postgres_tools.store.get_job(job_id)).job_id == job_id
    await postgres_tools.store.check_writable()


async def test_a_database_that_may_only_be_read_is_said(
    postgres: Postgres, postgres_tools: StoreTools, postgres_url: str
) -> None:
    name = urlsplit(postgres_url).path.removeprefix("/")
    postgres.run(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    postgres.end_sessions(postgres_url)
    with pytest.raises(StorageUnavailableError, match=r"read-only|read-write"):
        await postgres_tools.store.check_writable()
    postgres.run(f"ALTER DATABASE {name} RESET default_transaction_read_only")
    await postgres_tools.store.check_writable()
