"""The images, the compose file and its configurations, as their own linters see them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

PROGRAMS = Path(sys.executable).parent


def complaints(root: Path, program: str, *words: str) -> str:
    done = subprocess.run(
        [PROGRAMS / program, *words], cwd=root, capture_output=True, text=True, timeout=60
    )
    return "" if done.returncode == 0 else done.stdout + done.stderr or str(done.returncode)


def test_hadolint(root: Path, dockerfile_name: str) -> None:
    assert complaints(root, "hadolint", "--config", ".hadolint.yaml", dockerfile_name) == ""


def test_compose_keeps_to_its_schema(root: Path) -> None:
    words = ("--builtin-schema", "vendor.compose-spec", "deploy/compose/compose.yaml")
    assert complaints(root, "check-jsonschema", *words) == ""


def test_yamllint(root: Path) -> None:
    words = ("--strict", "--config-file", ".yamllint.yaml")
    assert complaints(root, "yamllint", *words, "deploy/compose", ".hadolint.yaml") == ""
