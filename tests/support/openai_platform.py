"""A whole platform in one process, with tiny models, for OpenAI's clients."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

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


@asynccontextmanager
async def openai_platform(root: Path) -> AsyncIterator[str]:
    """Run CORTEX, whose address is given, and a worker, with the models chat:1, caller:1, which
    knows tools, and reader:1. The folder of chat:1 is root/chat.
    """
    engram = f"file://{root / 'engram'}"
    async with (
        GenomeServer(GenomeSettings(data_dir=root / "genome", http_port=0)) as genome,
        CortexServer(
            CortexSettings(
                data_dir=root / "cortex",
                http_port=0,
                grpc_port=0,
                genome_url=genome.url,
                engram_url=engram,
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
