"""HTTP routes, from the OpenAPI documents that running servers give."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path
from typing import Any

import httpx2
import structlog

from mnemos.cortex.server import CortexServer
from mnemos.cortex.settings import CortexSettings
from mnemos.genome.server import GenomeServer
from mnemos.genome.settings import GenomeSettings

from .markdown import code, head, table

_TEXT = """
The documents that this is written from are served as well: `/openapi.json` by CORTEX and by GENOME,
`/v1/openapi.json` by CORTEX for what OpenAI's clients ask for. They have every field.
"""
_METHODS = ("get", "post", "put", "patch", "delete")


def page() -> str:
    """Return the page."""
    structlog.configure(logger_factory=structlog.ReturnLoggerFactory())
    cortex, openai, genome = asyncio.run(_documents())
    parts = [head("HTTP", _TEXT.strip())]
    for title, document, prefix in (
        ("CORTEX", cortex, ""),
        ("CORTEX for OpenAI's clients", openai, "/v1"),
        ("GENOME", genome, ""),
    ):
        parts.append(f"\n## {title}\n\n")
        parts.append(table(("request", "", "answers"), _rows(document, prefix)))
    return "".join(parts)


async def _documents() -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as folder:
        cortex = CortexSettings(data_dir=Path(folder, "cortex"), http_port=0, grpc_port=0)
        genome = GenomeSettings(data_dir=Path(folder, "genome"), http_port=0)
        async with (
            CortexServer(cortex) as jobs,
            GenomeServer(genome) as models,
            httpx2.AsyncClient() as client,
        ):
            urls = (
                f"{jobs.http_url}/openapi.json",
                f"{jobs.http_url}/v1/openapi.json",
                f"{models.url}/openapi.json",
            )
            return [(await client.get(url)).raise_for_status().json() for url in urls]


def _rows(document: dict[str, Any], prefix: str) -> list[tuple[str, str, str]]:
    return [
        (
            code(f"{method.upper()} {prefix}{path}"),
            operation.get("summary", ""),
            " ".join(sorted(operation["responses"])),
        )
        for path, operations in document["paths"].items()
        for method, operation in operations.items()
        if method in _METHODS
    ]
