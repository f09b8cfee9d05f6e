"""What hadolint does not ask of an image."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

FINAL = re.compile(r"^FROM ", re.MULTILINE)


@pytest.fixture
def dockerfile(dockerfile_name: str, root: Path) -> str:
    return (root / dockerfile_name).read_text()


def test_it_runs_as_nobody_in_particular_under_an_init(dockerfile: str) -> None:
    final = FINAL.split(dockerfile)[-1]
    assert "\nUSER 10001:10001\n" in final
    assert '\nENTRYPOINT ["tini", "--"]\n' in final
    assert "\nHEALTHCHECK " in final
    assert "org.opencontainers.image.version" in final


def test_its_base_is_an_argument(dockerfile: str) -> None:
    instructions = [line for line in dockerfile.splitlines() if line and line[0] != "#"]
    assert instructions[0].startswith("ARG BASE_IMAGE=")
    assert instructions[1] == "FROM ${BASE_IMAGE} AS python"


def test_sources_change_no_layer_of_dependencies(dockerfile: str) -> None:
    assert dockerfile.index("-r requirements.txt") < dockerfile.index("COPY src src")


def test_the_build_sees_what_it_copies(dockerfile: str, root: Path) -> None:
    seen = [line[1:] for line in (root / ".dockerignore").read_text().split() if line[0] == "!"]
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", dockerfile, re.MULTILINE)
    names = [name for words in copied for name in words.split()]
    assert names
    for name in names:
        assert (root / name).exists(), name
        assert any(name == each or name.startswith(f"{each}/") for each in seen), name


def test_requirements_are_those_of_the_project(dockerfile: str, root: Path) -> None:
    words = re.findall(r"requirements\.py (pyproject\.toml [a-z ]+) >", dockerfile)[0].split()
    script = root / "deploy" / "docker" / "requirements.py"
    told = subprocess.run(
        [sys.executable, script, *words], cwd=root, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    wanted = {*project["dependencies"]}
    for extra in words[1:]:
        wanted |= {*project["optional-dependencies"][extra]}
    assert set(told) == wanted
