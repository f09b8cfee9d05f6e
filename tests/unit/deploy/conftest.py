"""What a deployment's files say, read once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import compose_file
import pytest
import yaml

ROOT = Path(__file__).parents[3]
DOCKERFILES = (
    "src/neuron/Dockerfile",
    "deploy/docker/neuron-cpu.Dockerfile",
    "deploy/docker/platform.Dockerfile",
)


@pytest.fixture(scope="session")
def root() -> Path:
    return ROOT


@pytest.fixture(params=DOCKERFILES)
def dockerfile_name(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture(scope="session")
def compose() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(compose_file.text())
    return loaded


@pytest.fixture(scope="session")
def example() -> dict[str, str]:
    """The variables of .env.example."""
    return compose_file.example()
