"""How long one claim takes with few and with very many jobs waiting, asked of the store itself."""

# ruff: noqa: S608 - the columns are ours
from __future__ import annotations

import asyncio
import json
import sqlite3
import tempfile
import time
from pathlib import Path

import psycopg
from cortex_tools import StoreTools, TurnableClock
from sqlalchemy import Table

from mnemos.cortex.notifier import LocalNotifier
from mnemos.cortex.numbers import Measurements
from mnemos.cortex.records import ClaimRequest
from mnemos.cortex.settings import CortexSettings
from mnemos.cortex.sql.choice import open_store
from mnemos.cortex.sql.database import DATABASE_NAME
from mnemos.cortex.sql.schema import job_inputs, jobs, queue

from .figures import percentile, text_of

FEW, MANY = 1_000, 1_000_000
CLAIMS = 500
WARM_UP = 50
_SERIES = "WITH RECURSIVE series (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM series WHERE n < {})"


def claim_p99_ms(waiting: int, database_url: str | None) -> float:
    """Milliseconds of the slowest claim in a hundred, one job each, of `waiting` jobs."""
    with tempfile.TemporaryDirectory() as folder:
        return asyncio.run(_measure(Path(folder), waiting, database_url))


async def _measure(folder: Path, waiting: int, database_url: str | None) -> float:
    settings = CortexSettings(data_dir=folder, database_url=database_url, lease_seconds=3600)
    notifier = LocalNotifier()
    store = open_store(settings, notifier, clock=None, measure=_nobody)
    async with store:
        tools = StoreTools(store, TurnableClock(), notifier)
        await tools.register(runtimes=("echo",), slots=CLAIMS)
        await tools.submit(runtime="echo", input=json.dumps({"prompt": text_of()}))
        await asyncio.to_thread(_multiply, folder, waiting - 1, database_url)
        seconds = []
        for index in range(WARM_UP + CLAIMS):
            request = ClaimRequest(worker_id="wrk_a", max_jobs=1, request_id=f"request_{index}")
            began = time.perf_counter()
            claimed = await store.claim(request)
            seconds.append(time.perf_counter() - began)
            assert len(claimed.jobs) == 1
        return 1000 * percentile(seconds[WARM_UP:], 99)


def _nobody(_: Measurements) -> None:
    return


def _multiply(folder: Path, copies: int, database_url: str | None) -> None:
    """Copy the one job that there is, so that as many wait."""
    statements = [
        _copy_of_jobs(copies),
        *(_copy_of(table, copies) for table in (job_inputs, queue)),
    ]
    if database_url is None:
        with sqlite3.connect(folder / DATABASE_NAME) as file:
            for statement in statements:
                file.execute(statement)
        file.close()
        return
    with psycopg.connect(database_url, autocommit=True) as session:
        for statement in [*statements, "ANALYZE"]:
            session.execute(statement.encode())


def _copy_of_jobs(copies: int) -> str:
    changed = {"seq": "seq + n", "job_id": "job_id || n"}
    names = [column.name for column in jobs.columns]
    values = [changed.get(name, name) for name in names]
    return (
        f"{_SERIES.format(copies)} INSERT INTO jobs ({', '.join(names)})"
        f" SELECT {', '.join(values)} FROM jobs CROSS JOIN series"
    )


def _copy_of(table: Table, copies: int) -> str:
    """Copy the row that belongs to the job."""
    names = [column.name for column in table.columns]
    values = ["job_seq + n" if name == "job_seq" else name for name in names]
    return (
        f"{_SERIES.format(copies)} INSERT INTO {table.name} ({', '.join(names)})"
        f" SELECT {', '.join(values)} FROM {table.name} CROSS JOIN series"
    )
