"""OpenAI's own client, against a whole system with tiny models."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio
from openai import AsyncOpenAI
from openai_tools import official_client
from tiny_llama import TOOLS_TEMPLATE, build_tiny_llama
from tiny_pooling import build_tiny_embedder

from mnemos.cortex.server import CortexServer
from mnemos.cortex.settings import CortexSettings
from mnemos.engram.publish import push_directory
from mnemos.engram.store import ObjectStore
from mnemos.genome.client import GenomeClient
from mnemos.genome.server import GenomeServer
from mnemos.genome.settings import GenomeSettings
from neuron.config import Settings
from neuron.worker import NEURONWorker

CONTEXT = 512


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cortex_url(tmp_path_factory: object) -> AsyncIterator[str]:
    """A platform with the models chat:1, caller:1, which knows tools, and reader:1, and a worker
    that runs them.
    """
    root: Path = tmp_path_factory.mktemp("openai")  # type: ignore[attr-defined]
    engram = f"file://{root / 'engram'}"
    async with (
        GenomeServer(GenomeSettings(data_dir=root / "genome", http_port=0)) as genome,
        CortexServer(
            CortexSettings(
                data_dir=root / "cortex", http_port=0, grpc_port=0, genome_url=genome.url
            )
        ) as cortex,
        GenomeClient(genome.url) as registry,
    ):
        store = ObjectStore.from_url(engram)
        chat = build_tiny_llama(root / "chat", context=CONTEXT)
        await registry.register(await push_directory(store, chat, "chat", "1"))
        caller = build_tiny_llama(root / "caller", context=2048, chat_template=TOOLS_TEMPLATE)
        await registry.register(await push_directory(store, caller, "caller", "1"))
        reader = build_tiny_embedder(root / "reader")
        await registry.register(await push_directory(store, reader, "reader", "1"))
        worker = NEURONWorker(
            Settings(
                cortex_grpc_url=f"127.0.0.1:{cortex.grpc_port}",
                genome_http_url=genome.url,
                minio_endpoint=engram,
                supported_runtimes="transformers",
                max_concurrent_jobs=8,
                model_cache_dir=root / "cache",
                api_host="127.0.0.1",
                api_port=0,
                shutdown_timeout=20,
            )
        )
        async with asyncio.TaskGroup() as group:
            group.create_task(worker.start())
            try:
                async with asyncio.timeout(30):
                    await worker.ready.wait()
                yield cortex.http_url
            finally:
                worker.request_stop("the tests ended")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def client(cortex_url: str) -> AsyncIterator[AsyncOpenAI]:
    async with official_client(cortex_url, 60) as client:
        yield client
