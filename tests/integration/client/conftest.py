"""A CORTEX that may be killed, and a worker whose answers are its prompts' words."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from live_cortex import LiveCortex, live_cortex

from neuron.config import Settings
from neuron.worker import NEURONWorker


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cortex(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[LiveCortex]:
    root = tmp_path_factory.mktemp("client")
    async with live_cortex(root) as cortex:
        worker = NEURONWorker(
            Settings(
                cortex_grpc_url=cortex.grpc_address,
                genome_http_url="http://127.0.0.1:9",
                minio_endpoint=root.as_uri(),
                supported_runtimes="echo",
                max_concurrent_jobs=256,
                model_cache_dir=root / "cache",
                api_host="127.0.0.1",
                api_port=0,
            )
        )
        async with asyncio.TaskGroup() as group:
            group.create_task(worker.start())
            try:
                async with asyncio.timeout(30):
                    await worker.ready.wait()
                yield cortex
            finally:
                worker.request_stop("the tests ended")


@pytest.fixture(scope="module")
def url(cortex: LiveCortex) -> str:
    return f"http://127.0.0.1:{cortex.http_port}"
