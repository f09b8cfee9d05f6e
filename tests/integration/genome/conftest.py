"""GENOME over real HTTP on a free port, and descriptions to register."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest

from mnemos.genome.client import GenomeClient
from mnemos.genome.server import GenomeServer
from mnemos.genome.settings import GenomeSettings

MakeBody = Callable[..., dict[str, Any]]


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[GenomeServer]:
    """A running GENOME with no models."""
    async with GenomeServer(GenomeSettings(data_dir=tmp_path, http_port=0)) as running:
        yield running


@pytest.fixture
async def http(server: GenomeServer) -> AsyncIterator[httpx2.AsyncClient]:
    """A plain HTTP client, for what GENOME's own client would never send."""
    async with httpx2.AsyncClient(base_url=server.url, trust_env=False) as client:
        yield client


@pytest.fixture
async def genome(server: GenomeServer) -> AsyncIterator[GenomeClient]:
    """GENOME's own client."""
    async with GenomeClient(server.url) as client:
        yield client


@pytest.fixture
def make_body() -> MakeBody:
    """A sound description; keyword arguments replace its fields."""

    def make(family: str = "tiny", version: str = "1", **changes: Any) -> dict[str, Any]:
        body: dict[str, Any] = {
            "family": family,
            "version": version,
            "artifact": {"format": "safetensors"},
            "files": [
                {"path": "config.json", "size": 2, "sha256": "a" * 64},
                {"path": "model.safetensors", "size": 40, "sha256": "b" * 64},
            ],
        }
        return body | changes

    return make
