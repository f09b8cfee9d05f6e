"""`make chaos`: promises counted under faults, each figure printed; CHAOS=long for all of it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from figures import Figures, Scale
from postgres_tools import Postgres, any_server

_FIGURES = pytest.StashKey[list[str]]()
_HERE = Path(__file__).parent


@pytest.fixture(scope="session")
def scale() -> Scale:
    """The short form, unless CHAOS=long."""
    return Scale(long=os.environ.get("CHAOS") == "long")


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A server on which a test gets a database of its own."""
    with any_server() as url:
        yield Postgres(url)


@pytest.fixture
def figures(request: pytest.FixtureRequest) -> Iterator[Figures]:
    """Where a test notes what it counted."""
    counted = Figures(request.node.name.removeprefix("test_").replace("_", " "))
    yield counted
    request.config.stash.setdefault(_FIGURES, []).append(str(counted))


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Print every figure."""
    lines = config.stash.get(_FIGURES, [])
    if lines:
        terminalreporter.section("figures")
        for line in lines:
            terminalreporter.write_line(line)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every test of this folder: `make test` leaves them to `make chaos`."""
    for item in items:
        if item.path.is_relative_to(_HERE):
            item.add_marker(pytest.mark.promise)
