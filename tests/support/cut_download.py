"""A download whose connections are all reset again and again, at random."""

from __future__ import annotations

import asyncio
import random

from fault_proxy import FaultProxy

from mnemos.engram.fetch import Limits, WantedFile, fetch_files
from mnemos.engram.store import ObjectStore


async def fetch_through_cuts(
    store: ObjectStore,
    bucket: str,
    files: list[WantedFile],
    proxy: FaultProxy,
    *,
    cuts: int,
    connections: int,
    limits: Limits,
    seed: int = 20,
) -> None:
    """Fetch through `proxy`, which cuts all connections as random counts of bytes have come."""
    total = sum(file.size for file in files)
    loop = asyncio.get_running_loop()
    dice = random.Random(seed)
    moments = sorted(dice.randrange(total * 9 // 10) for _ in range(cuts))
    arrived = 0

    def note(count: int) -> None:
        nonlocal arrived
        arrived += count
        # Where the connections of the last cut are not back yet, the next bytes will do.
        while moments and arrived >= moments[0] and proxy.cut():
            moments.pop(0)

    def told(count: int) -> None:
        loop.call_soon_threadsafe(note, count)

    await fetch_files(store, bucket, files, on_bytes=told, connections=connections, limits=limits)
    assert not moments, "the fetch ended before all cuts were made"
