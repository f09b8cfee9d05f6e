"""A model arrives right over a line that breaks again and again, and little is fetched twice."""

from __future__ import annotations

from pathlib import Path

import pytest
from cut_download import fetch_through_cuts
from fault_proxy import FaultProxy
from fetch_tools import BUCKET, check_arrived, random_bytes, wanted
from figures import Figures, Scale
from object_server import ObjectServer

from mnemos.engram.fetch import CONNECTIONS, Limits
from mnemos.engram.store import ObjectStore

pytestmark = pytest.mark.timeout(600)

CUTS = 20
MIB = 1024 * 1024


async def test_cut_downloads(scale: Scale, figures: Figures, tmp_path: Path) -> None:
    """The limits that are used in earnest; every cut resets all connections there are."""
    runs = scale.of(10, 1)
    sizes = [scale.of(1024, 192) * MIB, 64 * MIB, 3 * MIB, 1000]
    worst, cut = 0.0, 0
    with ObjectServer() as server:
        data = {f"m/{size}": random_bytes(size // 8, size) * 8 for size in sizes}
        for key, content in data.items():
            server.put(BUCKET, key, content)
        total = sum(map(len, data.values()))
        for run in range(runs):
            files = [wanted(key, content, tmp_path) for key, content in data.items()]
            async with FaultProxy("127.0.0.1", server.port) as proxy:
                await fetch_through_cuts(
                    ObjectStore.from_url("s3://", endpoint=f"http://{proxy.address}"),
                    BUCKET,
                    files,
                    proxy,
                    cuts=CUTS,
                    connections=CONNECTIONS,
                    limits=Limits(),
                    seed=run,
                )
                worst = max(worst, proxy.faults.brought_bytes / total)
                cut += proxy.faults.cuts
            for file, content in zip(files, data.values(), strict=True):
                check_arrived(file, content)
                file.path.unlink()
    figures.note("downloads", runs)
    figures.note("bytes each", total)
    figures.note("cuts", runs * CUTS)
    figures.note("connections reset", cut)
    figures.note("bytes fetched at worst", worst, "of the model's")
    assert worst <= 1.2
