"""What is SQLite's own: one user at a time, the schema's history, commits that fail."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path

import pytest
from cortex_old_jobs import check_old_jobs, old_jobs
from cortex_tools import StoreFactory, StoreTools, TurnableClock
from sqlalchemy import create_engine

from mnemos.cortex.errors import JobNotFoundError, StartError, StorageUnavailableError
from mnemos.cortex.notifier import LocalNotifier
from mnemos.cortex.records import Chunk, FinishedRow, JobFilter
from mnemos.cortex.sql.database import DATABASE_NAME, migrate
from mnemos.cortex.sql.schema import metadata
from mnemos.cortex.sql.sqlite_store import SqliteStore
from mnemos.cortex.sql.transaction import Transaction

_OLD_JOB = """
INSERT INTO jobs (seq, job_id, lane_id, status, queued, delayed, job_type, priority, family,
    version, runtime, timeout_seconds, retry_config, min_memory_mb, min_gpu_memory_mb, tags,
    request_hash, size_bytes, attempt, retries_used, renewed, next_chunk, cancel_requested,
    submitted_at, available_at)
VALUES (1, 'job_old', 1, 'pending', TRUE, FALSE, 'batch_inference', 5, 'tiny', '1',
    'transformers', 300, '{}', 0, 0, '{}', 'hash', 9, 0, 0, FALSE, 0, FALSE, 0, 0)
"""


@pytest.fixture
def store_factory(sqlite_factory: StoreFactory) -> StoreFactory:
    return sqlite_factory


def description(database: Path) -> dict[str, object]:
    """Everything about a database's schema that matters."""
    told: dict[str, object] = {}
    connection = sqlite3.connect(database)
    try:
        tables = connection.execute(
            "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'alembic%'"
        ).fetchall()
        for (table,) in tables:
            told[table] = connection.execute(f"PRAGMA table_xinfo({table})").fetchall()
            keys = connection.execute(f"PRAGMA foreign_key_list({table})").fetchall()
            told[f"{table} keys"] = sorted(key[2:] for key in keys)
        indexes = connection.execute(
            "SELECT name, sql FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL"
        )
        told.update({name: " ".join(sql.split()) for name, sql in indexes})
    finally:
        connection.close()
    return told


def test_the_migrations_build_the_schema_that_the_code_uses(tmp_path: Path) -> None:
    migrate(tmp_path / "migrated.db")
    migrate(tmp_path / "migrated.db")
    engine = create_engine(f"sqlite:///{tmp_path / 'wanted.db'}")
    metadata.create_all(engine)
    engine.dispose()
    assert description(tmp_path / "migrated.db") == description(tmp_path / "wanted.db")


async def test_a_batch_of_an_older_cortex_knows_its_rows_and_goes_on_with_its_log(
    tmp_path: Path, store_factory: StoreFactory, clock: TurnableClock, notifier: LocalNotifier
) -> None:
    (tmp_path / "data").mkdir()
    migrate(tmp_path / "data" / DATABASE_NAME, "0001")
    connection = sqlite3.connect(tmp_path / "data" / DATABASE_NAME)
    lane = (1, "[]", "transformers", "batch_inference", "tiny", "1", 0, 0, "{}")
    connection.execute("INSERT INTO lanes VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", lane)
    connection.execute(_OLD_JOB)
    connection.execute("INSERT INTO job_inputs VALUES (1, ?, '{}', '{}')", ['{"inputs":["a","b"]}'])
    line = (1, 0, "state", '{"status":"pending","attempt":0,"worker_id":null}', 0.0)
    connection.execute("INSERT INTO job_events VALUES (?, ?, ?, ?, ?)", line)
    connection.commit()
    connection.close()
    async with store_factory() as store:
        tools = StoreTools(store, clock, notifier)
        await tools.register()
        [leased] = await tools.claim()
        chunks = [Chunk("job_old", 1, n, "", [], FinishedRow(n, "{}")) for n in range(3)]
        await store.append_chunks("wrk_a", chunks)
        page = await store.read_events("job_old", 0, 100)
    assert leased.job.engine_crashes == 0
    assert sum(event.kind == "row" for event in page.events) == 2
    assert [event.sequence for event in page.events] == list(range(5))


async def test_jobs_of_the_version_before_are_found_by_what_finds_them_now(
    tmp_path: Path, store_factory: StoreFactory, clock: TurnableClock, notifier: LocalNotifier
) -> None:
    (tmp_path / "data").mkdir()
    migrate(tmp_path / "data" / DATABASE_NAME, "0007")
    connection = sqlite3.connect(tmp_path / "data" / DATABASE_NAME)
    connection.executescript(old_jobs(clock.now))
    connection.close()
    async with store_factory() as store:
        await check_old_jobs(StoreTools(store, clock, notifier))


async def test_a_second_store_on_the_same_data_is_refused(
    tools: StoreTools, store_factory: StoreFactory
) -> None:
    with pytest.raises(StartError, match="Another CORTEX already uses the data directory"):
        async with store_factory():
            pass
    await tools.store.check_writable()


async def test_a_directory_that_cannot_be_made_is_one_sentence(
    tmp_path: Path, tools: StoreTools
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StartError, match="cannot be used"):
        async with SqliteStore(tmp_path / "file" / "data", tools.notifier):
            pass


async def test_a_file_that_is_no_database_is_one_sentence(
    tmp_path: Path, tools: StoreTools
) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / DATABASE_NAME).write_bytes(b"not a database " * 100)
    with pytest.raises(StartError, match="file is not a database"):
        async with SqliteStore(tmp_path / "other", tools.notifier):
            pass


async def test_one_operation_that_fails_does_not_spoil_its_neighbours(tools: StoreTools) -> None:
    jobs = [tools.new_job() for _ in range(20)]

    async def fail() -> None:
        with pytest.raises(JobNotFoundError):
            await tools.store.cancel_job("job_nowhere")

    async with asyncio.TaskGroup() as group:
        for job in jobs:
            group.create_task(tools.store.submit([job]))
            group.create_task(fail())
    assert len(await tools.store.list_jobs(JobFilter())) == 20
    assert (await tools.store.totals()).jobs["pending"] == 20


async def test_an_operation_that_fails_half_way_leaves_nothing(tools: StoreTools) -> None:
    clash = tools.new_job()
    with pytest.raises(sqlite3.IntegrityError):
        await tools.store.submit([tools.new_job(), clash, clash])
    assert await tools.store.list_jobs(JobFilter()) == []
    assert (await tools.store.totals()).jobs["pending"] == 0
    numbers = await tools.store.queue_numbers()
    assert list(numbers.lanes) == []


async def test_a_full_database_refuses_and_recovers(tmp_path: Path, tools: StoreTools) -> None:
    store = SqliteStore(tmp_path / "small", tools.notifier)
    async with store:
        [kept] = await store.submit([tools.new_job()])
        await _limit_pages(store, 1)
        big = tools.new_job(input='"' + "a" * 1_000_000 + '"')
        with pytest.raises(StorageUnavailableError, match="full"):
            await store.submit([big])
        assert (await store.get_job(kept.job_id)).job_id == kept.job_id
        await _limit_pages(store, 1_000_000)
        [stored] = await store.submit([big])
        assert stored.created
        await store.check_writable()


async def _limit_pages(store: SqliteStore, pages: int) -> None:
    def limit(tx: Transaction) -> None:
        tx.all(f"PRAGMA max_page_count = {pages}", {})

    await store._writer.run(limit)


async def test_a_closed_store_refuses_and_closes_again(
    store_factory: StoreFactory, tools: StoreTools
) -> None:
    store = tools.store
    await store.__aexit__(None, None, None)  # type: ignore[attr-defined]  # closed early
    with pytest.raises(StorageUnavailableError, match="shutting down"):
        await store.check_writable()
    with pytest.raises(StorageUnavailableError, match="shutting down"):
        await store.list_workers()
