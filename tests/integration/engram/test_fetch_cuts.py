"""Lines that break while a model comes from a real S3 server."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Protocol

from cut_download import fetch_through_cuts
from fault_proxy import FaultProxy
from fetch_tools import KIB, PATIENT, check_arrived, random_bytes, wanted
from pydantic import SecretStr

from mnemos.engram.store import ObjectStore

CUTS = 20
CONNECTIONS = 8
SIZES = (24_000_000, 8_000_000, 100_000, 3)


class Server(Protocol):
    endpoint: str
    access_key: str
    secret_key: str

    def store(self, url: str = "s3://") -> ObjectStore: ...


async def test_twenty_cuts_cost_little(s3_server: Server, tmp_path: Path) -> None:
    objects = {f"cut/{size}": random_bytes(size, seed=size) for size in SIZES}
    bucket = "cut-downloads"
    await s3_server.store().ensure_bucket(bucket)
    for key, data in objects.items():
        await s3_server.store().put_bytes(bucket, key, data)
    host, _, port = s3_server.endpoint.partition(":")
    files = [wanted(key, data, tmp_path) for key, data in objects.items()]
    limits = replace(
        PATIENT,
        part_bytes=1024 * KIB,
        tries=30,  # all the cuts may strike one part before its first byte
        first_pause_seconds=0.02,
        longest_pause_seconds=0.3,
    )
    async with FaultProxy(host, int(port)) as proxy:
        store = ObjectStore.from_url(
            "s3://",
            endpoint=proxy.address,
            access_key=s3_server.access_key,
            secret_key=SecretStr(s3_server.secret_key),
            secure=False,
        )

        await fetch_through_cuts(
            store, bucket, files, proxy, cuts=CUTS, connections=CONNECTIONS, limits=limits
        )

        assert proxy.faults.cuts >= CUTS
        assert proxy.faults.brought_bytes < 1.2 * sum(SIZES)
    for file, data in zip(files, objects.values(), strict=True):
        check_arrived(file, data)
