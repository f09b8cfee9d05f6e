"""deploy/compose/compose.yaml as compose would read it, with .env.example filled in."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

FOLDER = Path(__file__).parents[2] / "deploy" / "compose"
VARIABLE = re.compile(r"\$\{([A-Z_]+)(?::[-?]([^}]*))?\}")
SECRET = "0123456789abcdef0123456789abcdef"


def text() -> str:
    """The file as it is."""
    return (FOLDER / "compose.yaml").read_text()


def services() -> dict[str, Any]:
    """What runs, by name."""
    found: dict[str, Any] = yaml.safe_load(text())["services"]
    return found


def example() -> dict[str, str]:
    """The variables of .env.example."""
    lines = (FOLDER / ".env.example").read_text().splitlines()
    pairs = [line.partition("=") for line in lines if line and not line.startswith("#")]
    return {name: value for name, _, value in pairs}


def environment(service: str, variables: Mapping[str, str]) -> dict[str, str]:
    """A service's environment; a variable that must be set and is empty becomes SECRET."""
    listed = services()[service].get("environment", {})
    pairs = listed.items() if isinstance(listed, dict) else (each.split("=", 1) for each in listed)

    def value(found: re.Match[str]) -> str:
        is_needed = ":?" in found[0] or found[2] is None
        return variables[found[1]] or (SECRET if is_needed else found[2] or "")

    return {name: VARIABLE.sub(value, str(given)) for name, given in pairs}
