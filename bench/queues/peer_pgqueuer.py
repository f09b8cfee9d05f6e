"""PgQueuer as a peer: it keeps no results, so its handler stores them in a table beside it."""

# mypy: ignore-errors
# What it imports is installed in the peers' environment only.
# ruff: noqa: S608 - the texts are ours
from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
from peer import PAYLOAD, main, result
from pgqueuer import PgQueuer
from pgqueuer.queries import Queries

BULK = 1_000
BODY = json.dumps(PAYLOAD).encode()
RESULTS = "CREATE TABLE results (job_id BIGINT PRIMARY KEY, result JSONB NOT NULL)"
STORE = "INSERT INTO results VALUES ($1, $2)"


class PgQueuerClient:
    """Enqueues, and reads what the handler stored."""

    def __init__(self, pool: Any) -> None:
        self._pool = pool
        self._queries = Queries.from_asyncpg_pool(pool)

    async def enqueue(self) -> Any:
        return (await self._queries.enqueue("bench", BODY))[0]

    async def enqueue_many(self, count: int) -> None:
        for first in range(0, count, BULK):
            size = min(BULK, count - first)
            await self._queries.enqueue(["bench"] * size, [BODY] * size, [0] * size)

    async def count_done(self) -> int:
        return int(await self._pool.fetchval("SELECT COUNT(*) FROM results"))

    async def began_at(self, job_id: Any = None) -> float | None:
        at = "(result->>'at')::float8"
        if job_id is None:
            found = await self._pool.fetchval(f"SELECT MIN({at}) FROM results")
        else:
            query = f"SELECT {at} FROM results WHERE job_id = $1"
            found = await self._pool.fetchval(query, int(job_id))
        return None if found is None else float(found)


@asynccontextmanager
async def client(dsn: str) -> AsyncIterator[PgQueuerClient]:
    async with asyncpg.create_pool(dsn, min_size=2, max_size=10) as pool:
        yield PgQueuerClient(pool)


async def install(dsn: str) -> None:
    async with asyncpg.create_pool(dsn, min_size=1, max_size=2) as pool:
        await Queries.from_asyncpg_pool(pool).install()
        await pool.execute(RESULTS)


async def work(dsn: str, slots: int) -> None:
    async with asyncpg.create_pool(dsn, min_size=10, max_size=10) as pool:
        queue = PgQueuer.from_asyncpg_pool(pool)

        @queue.entrypoint("bench")
        async def noop(job: Any) -> None:
            await pool.execute(STORE, int(job.id), json.dumps(result()))

        print("ready", flush=True)
        await queue.run(batch_size=slots // 2, max_concurrent_tasks=slots)


if __name__ == "__main__":
    main(client, install, work)
