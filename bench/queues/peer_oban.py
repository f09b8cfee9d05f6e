"""oban-py as a peer: results are recorded with the job."""

# mypy: ignore-errors
# What it imports is installed in the peers' environment only.
# ruff: noqa: S608 - the texts are ours
from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from oban import Oban, Record, worker
from oban._recorded import decode_recorded
from oban.schema import install as install_schema
from peer import PAYLOAD, main, result

BULK = 1_000


@worker(queue="bench")
class Noop:
    """Does nothing and records a result."""

    async def process(self, job: Any) -> Any:
        return Record(result())


class ObanClient:
    """Enqueues, and reads what was recorded."""

    def __init__(self, oban: Any, pool: Any) -> None:
        self._oban = oban
        self._pool = pool

    async def enqueue(self) -> Any:
        return (await self._oban.enqueue(Noop.new(PAYLOAD))).id

    async def enqueue_many(self, count: int) -> None:
        for first in range(0, count, BULK):
            size = min(BULK, count - first)
            await self._oban.enqueue_many([Noop.new(PAYLOAD) for _ in range(size)])

    async def count_done(self) -> int:
        return int((await self._row("SELECT COUNT(*) FROM oban_jobs WHERE state = 'completed'"))[0])

    async def began_at(self, job_id: Any = None) -> float | None:
        where = "WHERE state = 'completed'"
        if job_id is None:
            row = await self._row(
                f"SELECT meta FROM oban_jobs {where} ORDER BY completed_at LIMIT 1"
            )
        else:
            row = await self._row(f"SELECT meta FROM oban_jobs {where} AND id = %s", job_id)
        return None if row is None else float(decode_recorded(row[0]["return"])["at"])

    async def _row(self, query: str, *values: Any) -> Any:
        async with self._pool.connection() as connection:
            return await (await connection.execute(query, values)).fetchone()


@asynccontextmanager
async def client(dsn: str) -> AsyncIterator[ObanClient]:
    pool = await Oban.create_pool(dsn, min_size=2, max_size=10)
    try:
        async with Oban(pool=pool) as oban:
            yield ObanClient(oban, pool)
    finally:
        await pool.close()


async def install(dsn: str) -> None:
    pool = await Oban.create_pool(dsn)
    await install_schema(pool)
    await pool.close()


async def work(dsn: str, slots: int) -> None:
    pool = await Oban.create_pool(dsn, min_size=4, max_size=10)
    async with Oban(pool=pool, queues={"bench": slots}):
        print("ready", flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    main(client, install, work)
