"""What becomes of a job is decided in lease_core; stores carry it out."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import mnemos.cortex
from mnemos.cortex import lease_core

PACKAGE = Path(mnemos.cortex.__file__).parent
DECIDING = {
    "TRANSITIONS",
    "backoff_seconds",
    "check_transition",
    "decide_after_engine_death",
    "decide_after_failure",
    "is_retryable",
}
MAY_DECIDE = {"lease_core.py", "state_machine.py"}


def names_used(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.Attribute):
            yield node.attr


def test_nobody_else_uses_what_decides() -> None:
    used = {
        str(path.relative_to(PACKAGE)): DECIDING & set(names_used(path))
        for path in PACKAGE.rglob("*.py")
    }
    assert used["lease_core.py"] >= DECIDING - {"backoff_seconds", "is_retryable"}
    assert {name for name, found in used.items() if found} <= MAY_DECIDE


def test_stores_let_events_happen_in_one_place() -> None:
    calling = [
        str(path.relative_to(PACKAGE))
        for path in (PACKAGE / "sql").rglob("*.py")
        if f"{lease_core.__name__.rpartition('.')[2]}.{lease_core.step.__name__}("
        in path.read_text()
    ]
    assert calling == ["sql/carry_out.py"]
