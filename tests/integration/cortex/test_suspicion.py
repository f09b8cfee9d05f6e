"""Streams of actions that break, at a running CORTEX."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
from cortex_tools import Cortex, eventually, running_cortex
from fault_proxy import FaultProxy
from pydantic import SecretStr

from mnemos.cortex.records import JobRecord
from mnemos.cortex.settings import CortexSettings
from mnemos.cortex.sql.database import DATABASE_NAME
from mnemos.protocol.v1 import cortex_pb2 as pb
from mnemos.protocol.v1 import cortex_pb2_grpc as rpc

LEASE = 60.0


@pytest.fixture
def settings(tmp_path: Path) -> CortexSettings:
    return CortexSettings(
        data_dir=tmp_path / "cortex",
        http_port=0,
        grpc_port=0,
        lease_seconds=LEASE,
        suspect_seconds=0.3,
    )


@asynccontextmanager
async def proxy_to(cortex: Cortex) -> AsyncIterator[FaultProxy]:
    async with FaultProxy("127.0.0.1", cortex.server.grpc_port) as proxy:
        yield proxy


class Line:
    """A worker's connection of its own."""

    def __init__(self, address: str) -> None:
        self.channel = grpc.aio.insecure_channel(
            address, options=[("grpc.use_local_subchannel_pool", 1)]
        )
        self.stub: Any = rpc.CortexServiceStub(self.channel)

    async def watch(self, worker_id: str, instance_id: str = "one") -> Any:
        call = self.stub.WatchActions(
            pb.WatchActionsRequest(worker_id=worker_id, instance_id=instance_id)
        )
        await call.read()
        return call


@asynccontextmanager
async def line(address: str) -> AsyncIterator[Line]:
    opened = Line(address)
    try:
        yield opened
    finally:
        await opened.channel.close()


async def record(cortex: Cortex, job_id: str) -> JobRecord:
    return await cortex.server.store.get_job(job_id)


async def goes_back(cortex: Cortex, job_id: str) -> None:
    async def is_lost() -> bool:
        return (await record(cortex, job_id)).lost_workers == 1

    await eventually(is_lost, "the job was taken from its worker", seconds=5)


async def streams_are_gone(cortex: Cortex) -> None:
    async def nobody_listens() -> bool:
        topics = cortex.server.notifier.topics
        return not any(topic.startswith("worker/") for topic in topics)

    await eventually(nobody_listens, "the broken stream was noticed", seconds=5)


async def still_holds(cortex: Cortex, job_id: str) -> bool:
    """Whether no lease was shortened by what CORTEX has noticed until now."""
    await cortex.server.store.check_writable()  # behind what was asked of the writer before
    soon = asyncio.get_running_loop().time() + 1
    while asyncio.get_running_loop().time() < soon:
        await cortex.server.reaper.run_once()
        if (await record(cortex, job_id)).lost_workers:
            return False
    return True


async def test_a_worker_whose_connection_is_cut_loses_its_jobs_soon(cortex: Cortex) -> None:
    job_id = await cortex.hold()
    async with proxy_to(cortex) as proxy, line(proxy.address) as worker:
        await worker.watch(cortex.worker_id)
        proxy.cut()
        await goes_back(cortex, job_id)


async def is_suspected(settings: CortexSettings, job_id: str) -> bool:
    asked = "SELECT lease_expires_at FROM jobs WHERE job_id = ?"
    with closing(sqlite3.connect(settings.data_dir / DATABASE_NAME)) as database:
        [(expires_at,)] = database.execute(asked, [job_id]).fetchall()
    return bool(expires_at < time.time() + LEASE / 2)


async def test_one_that_renews_keeps_them(cortex: Cortex, settings: CortexSettings) -> None:
    job_id = await cortex.hold()
    renewal = pb.RenewLeasesRequest(
        worker_id=cortex.worker_id, jobs=[pb.AttemptRef(job_id=job_id, attempt=1)]
    )
    async with proxy_to(cortex) as proxy, line(proxy.address) as worker:
        await worker.watch(cortex.worker_id)
        proxy.cut()
        await streams_are_gone(cortex)
        await eventually(lambda: is_suspected(settings, job_id), "the lease was shortened")
        [verdict] = (await cortex.stub.RenewLeases(renewal)).verdicts
        assert verdict.verdict == pb.VERDICT_ACCEPTED
        assert await still_holds(cortex, job_id)


async def test_a_second_stream_of_the_process_prevents_suspicion(cortex: Cortex) -> None:
    job_id = await cortex.hold()
    async with proxy_to(cortex) as proxy, line(proxy.address) as old:
        await old.watch(cortex.worker_id)
        proxy.hold()
        async with line(cortex.server.grpc_address) as new:
            stream = await new.watch(cortex.worker_id)
            listeners = cortex.server.notifier.listeners
            proxy.cut()

            async def is_noticed() -> bool:
                return cortex.server.notifier.listeners < listeners

            await eventually(is_noticed, "the old stream's end was noticed", seconds=5)
            assert await still_holds(cortex, job_id)
            assert not stream.done()


async def test_a_stream_at_another_replica_prevents_it_too(
    settings: CortexSettings, postgres_url: str
) -> None:
    shared = settings.model_copy(update={"database_url": SecretStr(postgres_url)})
    async with running_cortex(shared) as here, running_cortex(shared) as there:
        job_id = await here.hold()
        async with proxy_to(here) as proxy, line(proxy.address) as old:
            await old.watch(here.worker_id)
            async with line(there.server.grpc_address) as new:
                await new.watch(here.worker_id)
                proxy.cut()
                await streams_are_gone(here)
                assert await still_holds(here, job_id)
        await goes_back(there, job_id)


async def test_who_does_not_name_its_process_is_not_suspected(cortex: Cortex) -> None:
    job_id = await cortex.hold()
    async with proxy_to(cortex) as proxy, line(proxy.address) as worker:
        await worker.watch(cortex.worker_id, instance_id="")
        proxy.cut()
        await streams_are_gone(cortex)
        assert await still_holds(cortex, job_id)


async def test_nobody_is_suspected_where_that_is_off(settings: CortexSettings) -> None:
    off = settings.model_copy(update={"suspect_seconds": 0.0})
    async with running_cortex(off) as cortex:
        job_id = await cortex.hold()
        async with proxy_to(cortex) as proxy, line(proxy.address) as worker:
            await worker.watch(cortex.worker_id)
            proxy.cut()
            await streams_are_gone(cortex)
            assert await still_holds(cortex, job_id)


async def test_the_end_of_cortex_makes_nobody_suspect(settings: CortexSettings) -> None:
    async with running_cortex(settings) as cortex:
        job_id = await cortex.hold()
        async with line(cortex.server.grpc_address) as worker:
            stream = await worker.watch(cortex.worker_id)
            shortened = _watched(cortex)
            await cortex.server.__aexit__(None, None, None)
            assert await stream.read() is grpc.aio.EOF
        assert shortened == []
    async with running_cortex(settings) as again:
        assert (await record(again, job_id)).lost_workers == 0


def _watched(cortex: Cortex) -> list[object]:
    """A list that gains what the store is asked to suspect from now on."""
    asked: list[object] = []
    original = cortex.server.store.suspect

    async def suspect(broken: Any, seconds: float) -> int:
        asked.append(broken)
        return await original(broken, seconds)

    cortex.server.store.suspect = suspect  # type: ignore[method-assign]  # it still does its work
    return asked


async def test_a_connection_that_died_in_silence_is_noticed(cortex: Cortex) -> None:
    """No FIN and no RST, as from a machine that lost its power: pings find out."""
    job_id = await cortex.hold()
    async with proxy_to(cortex) as proxy, line(proxy.address) as worker:
        await worker.watch(cortex.worker_id)
        proxy.hold()

        async def is_lost() -> bool:
            return (await record(cortex, job_id)).lost_workers == 1

        await eventually(is_lost, "the silence was noticed", seconds=20)
