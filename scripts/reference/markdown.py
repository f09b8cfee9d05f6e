"""The few shapes that reference pages have."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

WRITTEN = "<!-- Written by `make reference` from the code. -->\n"


def head(title: str, text: str) -> str:
    """Return how a page begins."""
    return f"# {title}\n\n{WRITTEN}\n{text}\n"


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table; a cell keeps to its line."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "".join(f"| {' | '.join(map(cell, line))} |\n" for line in lines)


def cell(text: str) -> str:
    """Make a text fit into a cell."""
    return re.sub(r"\s+", " ", text).strip().replace("|", "\\|")


def code(text: str) -> str:
    """Return a text as code, or nothing for none."""
    return f"`{text}`" if text else ""


def prose(docstring: str | None) -> str:
    """Return a docstring as Markdown: double backticks become single ones."""
    lines = (docstring or "").strip().splitlines()
    return "\n".join(line.strip() for line in lines).replace("``", "`")


def tidy(page: str) -> str:
    """Leave one empty line where there are more."""
    return re.sub(r"\n{3,}", "\n\n", page)
