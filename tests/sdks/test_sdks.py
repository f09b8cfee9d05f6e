"""Each SDK's script runs to its end against a whole system."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from sdk_platform import Platform

HERE = Path(__file__).parent
OLD_OPENAI = "openai-1.59"
"""A folder in the environment, since others need a newer one."""
SCRIPTS = sorted(path.stem for path in (HERE / "scripts").glob("use_*.py"))


@pytest.fixture(scope="session")
def python() -> Path:
    """The Python that has the SDKs."""
    return Path(os.environ["SDKS_PYTHON"])


@pytest.mark.parametrize("script", SCRIPTS)
def test_it_works(script: str, platform: Platform, python: Path) -> None:
    print(platform.run(python, HERE / "scripts" / f"{script}.py"))


def test_the_old_client_of_openai_works(platform: Platform, python: Path) -> None:
    where = {"PYTHONPATH": str(python.parent.parent / OLD_OPENAI)}
    told = platform.run(python, HERE / "scripts" / "use_openai.py", environment=where)
    assert "openai 1.59" in told


@pytest.mark.skipif(
    not (HERE / "node" / "node_modules").exists(), reason="make test-sdks installs openai-node"
)
def test_the_client_for_node_works(platform: Platform) -> None:
    print(platform.run("node", HERE / "node" / "use_openai.mjs"))


def test_the_lock_names_no_registry() -> None:
    lock = json.loads((HERE / "node" / "package-lock.json").read_text())
    assert [name for name, package in lock["packages"].items() if "resolved" in package] == []
