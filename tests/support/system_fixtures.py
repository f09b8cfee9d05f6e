"""A real system per test: processes, ports, a data directory and the tiny model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from stack import Stack, running_stack
from tiny_llama import build_tiny_llama
from tiny_stack import TINY


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama with a long context, so that its jobs can be caught in the middle."""
    return build_tiny_llama(tmp_path_factory.mktemp("tiny-llama"), context=8192)


@pytest.fixture
def stack(tmp_path: Path, tiny_model: Path) -> Iterator[Stack]:
    """CORTEX, GENOME and ENGRAM running, with the tiny model pushed; no worker yet."""
    with running_stack(tmp_path, CORTEX_LEASE_SECONDS="3") as stack:
        stack.start_platform()
        stack.mnemos("models", "push", str(tiny_model), "--name", TINY)
        yield stack
