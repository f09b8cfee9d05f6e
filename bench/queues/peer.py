"""What both peers share: the phases of a round, each a run of the peer's own script.

It runs in the peers' environment, so it knows nothing of this project.
"""

# ruff: noqa: ASYNC110 - a count in a database has no event
from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

import uvloop

PAYLOAD = {"text": "x" * (500 - len(json.dumps({"text": ""})))}
POLL_SECONDS = 0.02
GAP_SECONDS = 0.02


def result() -> dict[str, Any]:
    """What a job stores: 500 bytes that say when its handler began."""
    at = {"at": time.time(), "text": ""}
    return {**at, "text": "x" * (500 - len(json.dumps(at)))}


class Client(Protocol):
    """A peer, as a submitter sees it."""

    async def enqueue(self) -> Any:
        """Enqueue one job; return its id once it is durable."""

    async def enqueue_many(self, count: int) -> None:
        """Enqueue jobs the fastest way there is."""

    async def count_done(self) -> int:
        """Count the jobs whose result can be read."""

    async def began_at(self, job_id: Any = None) -> float | None:
        """When a job's handler began, or the first one's; None while there is no result."""


async def single(client: Client, count: int) -> dict[str, Any]:
    """Enqueue one by one."""
    began = time.perf_counter()
    for _ in range(count):
        await client.enqueue()
    return {"singles_seconds": time.perf_counter() - began}


async def fill(client: Client, count: int) -> dict[str, Any]:
    """Enqueue in bulk."""
    await client.enqueue_many(count)
    return {}


async def drain(client: Client, count: int) -> dict[str, Any]:
    """Wait until all results can be read."""
    while await client.count_done() < count:
        await asyncio.sleep(POLL_SECONDS)
    return {"ended_at": time.time(), "first_at": await client.began_at()}


async def pickup(client: Client, count: int) -> dict[str, Any]:
    """Enqueue on an idle queue, again and again; how long until the handler began."""
    seconds = []
    for _ in range(count):
        asked_at = time.time()
        job_id = await client.enqueue()
        while (began_at := await client.began_at(job_id)) is None:
            await asyncio.sleep(POLL_SECONDS)
        seconds.append(began_at - asked_at)
        await asyncio.sleep(GAP_SECONDS)
    return {"pickup_seconds": seconds}


def main(
    client: Callable[[str], Any], install: Callable[[str], Awaitable[None]], work: Any
) -> None:
    """Run `PHASE DSN COUNT`, and print what it found as JSON."""
    phase, dsn, count = sys.argv[1], sys.argv[2], int(sys.argv[3])

    async def run() -> dict[str, Any]:
        if phase == "install":
            await install(dsn)
            return {}
        if phase == "work":
            await work(dsn, count)
            return {}
        phases = {"single": single, "fill": fill, "drain": drain, "pickup": pickup}
        async with client(dsn) as opened:
            return await phases[phase](opened, count)

    print(json.dumps(uvloop.run(run())), flush=True)
