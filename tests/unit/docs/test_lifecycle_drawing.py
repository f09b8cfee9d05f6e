"""docs/lifecycle.md draws what the code allows."""

from __future__ import annotations

from pathlib import Path

from mnemos.cortex.state_machine import mermaid

LIFECYCLE = Path(__file__).parents[3] / "docs" / "lifecycle.md"


def test_the_drawing_is_the_table() -> None:
    assert f"```mermaid\n{mermaid()}```" in LIFECYCLE.read_text()
