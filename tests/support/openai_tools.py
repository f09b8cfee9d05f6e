"""A CORTEX that knows one model, whose worker is the test's own hand, and OpenAI's client to it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from cortex_tools import Cortex, running_cortex
from openai import AsyncOpenAI

from mnemos.cortex.settings import CortexSettings
from mnemos.genome.client import GenomeClient
from mnemos.genome.server import GenomeServer
from mnemos.genome.settings import GenomeSettings
from mnemos.protocol.v1 import cortex_pb2 as pb

ANSWER_METADATA = json.dumps({"finish_reason": "stop", "prompt_tokens": 3, "tokens_generated": 2})
_MODEL = {
    "family": "tiny",
    "version": "1",
    "artifact": {"format": "safetensors"},
    "files": [{"path": "model.safetensors", "size": 40, "sha256": "b" * 64}],
}


@asynccontextmanager
async def cortex_by_hand(root: Path, **settings: Any) -> AsyncIterator[Cortex]:
    """Run CORTEX with tiny:1 in its GENOME and a folder as ENGRAM; a worker is registered."""
    async with GenomeServer(GenomeSettings(data_dir=root / "genome", http_port=0)) as genome:
        async with GenomeClient(genome.url) as registry:
            await registry.register(_MODEL)
        all_settings = CortexSettings(
            data_dir=root / "cortex",
            http_port=0,
            grpc_port=0,
            genome_url=genome.url,
            engram_url=(root / "engram").as_uri(),
            **settings,
        )
        async with running_cortex(all_settings) as cortex:
            await cortex.register()
            yield cortex


def official_client(
    cortex_url: str, timeout_seconds: float = 20, api_key: str = "unused"
) -> AsyncOpenAI:
    """OpenAI's client, which neither repeats nor waits for ever; to be closed."""
    return AsyncOpenAI(
        base_url=f"{cortex_url}/v1", api_key=api_key, max_retries=0, timeout=timeout_seconds
    )


async def complete(cortex: Cortex, job_id: str, answer: str, attempt: int = 1) -> None:
    """Report a text as a job's answer."""
    output = pb.JobOutput(result_json=json.dumps(answer), metadata_json=ANSWER_METADATA)
    await cortex.report(
        pb.JobResult(job_id=job_id, attempt=attempt, status=pb.JOB_STATUS_COMPLETED, output=output)
    )


async def fail(
    cortex: Cortex, job_id: str, code: str, attempt: int = 1, *, retryable: bool = False
) -> None:
    """Report that a job failed."""
    number = pb.ErrorCode.Value(f"ERROR_CODE_{code.upper()}")
    details = pb.ErrorDetails(code=number, retryable=retryable)
    await cortex.report(
        pb.JobResult(
            job_id=job_id,
            attempt=attempt,
            status=pb.JOB_STATUS_FAILED,
            error="It is broken.",
            error_details=details,
        )
    )
