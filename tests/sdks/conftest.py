"""A whole system as processes, for other people's tools: `make test-sdks` brings these tools."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from sdk_platform import MODELS, Platform, running_platform

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Without the environment there is nothing to test."""
    missing = pytest.mark.skip(reason="SDKS_PYTHON names no Python with the SDKs")
    for item in items:
        if HERE in item.path.parents and not os.environ.get("SDKS_PYTHON"):
            item.add_marker(missing)


@pytest.fixture(scope="session")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    """CORTEX, GENOME, ENGRAM and a worker with the models of MODELS."""
    with running_platform(tmp_path_factory.mktemp("sdks")) as platform:
        assert sorted(platform.models()) == sorted(MODELS)
        yield platform
