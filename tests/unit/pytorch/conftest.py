"""A good archive of each kind, built once."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny_torch


@pytest.fixture(scope="session")
def good_archives(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("archives")
    tiny_torch.write_text_model(folder)
    tiny_torch.write_script(folder)
    return folder


@pytest.fixture
def exported(good_archives: Path, tmp_path: Path) -> Path:
    """A copy of a torch.export archive with two free dimensions."""
    return Path(shutil.copy(good_archives / "model.pt2", tmp_path))


@pytest.fixture
def script(good_archives: Path, tmp_path: Path) -> Path:
    """A copy of a TorchScript archive."""
    return Path(shutil.copy(good_archives / "model.pt", tmp_path))


@pytest.fixture
def evil(tmp_path: Path) -> Callable[[], str]:
    """Python that leaves a proof when it runs; fails the test if it did."""
    return lambda: f"__import__('pathlib').Path({str(tmp_path / 'code-ran')!r}).touch()"
