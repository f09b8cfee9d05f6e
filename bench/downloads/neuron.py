"""This project's own download, in a process of its own: `ENDPOINT FILES.json FOLDER`.

Prints as JSON how long it took, what it cost, and how long the event loop stood still.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
import time
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from mnemos.engram.fetch import WantedFile, fetch_files
from mnemos.engram.store import ObjectStore

from .keys import ACCESS_KEY, SECRET_KEY
from .model import BUCKET

_TICK_SECONDS = 0.002


async def download(endpoint: str, listed: list[dict[str, Any]], folder: Path) -> dict[str, Any]:
    """Fetch every file of the list."""
    store = ObjectStore.from_url(
        "s3://", endpoint=endpoint, access_key=ACCESS_KEY, secret_key=SecretStr(SECRET_KEY)
    )
    files = [
        WantedFile(each["key"], each["size"], each["sha256"], folder / each["sha256"])
        for each in listed
    ]
    began, blocks = time.monotonic(), [0.0]
    async with asyncio.TaskGroup() as group:
        watch = group.create_task(_watch(blocks))
        await fetch_files(store, BUCKET, files)
        seconds = time.monotonic() - began
        watch.cancel()
    cpu = os.times()
    return {
        "seconds": seconds,
        "cpu_seconds": cpu.user + cpu.system,
        "peak_mib": _peak_mib(),
        "loop_block_ms": 1000 * max(blocks),
    }


async def _watch(blocks: list[float]) -> None:
    """Put down by how much each short sleep was late."""
    while True:
        before = time.monotonic()
        await asyncio.sleep(_TICK_SECONDS)
        blocks.append(time.monotonic() - before - _TICK_SECONDS)


def _peak_mib() -> float:
    """VmHWM, since ru_maxrss begins with the parent's."""
    status = Path("/proc/self/status").read_text()
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    assert found is not None
    return int(found[1]) / 1024


if __name__ == "__main__":
    listed = json.loads(Path(sys.argv[2]).read_text())
    told = asyncio.run(download(sys.argv[1], listed, Path(sys.argv[3])))
    print(json.dumps(told))
