"""How answers look: tables for people, JSON for machines. Data goes to stdout, talk to stderr."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any, NamedTuple

import click

if TYPE_CHECKING:
    from rich.console import Console

WIDE_ENOUGH = 10_000
"""The width of a table that nobody looks at through a terminal: nothing is cut."""

_STATUS_COLOURS = {
    "completed": "green",
    "ok": "green",
    "idle": "green",
    "busy": "cyan",
    "failed": "red",
    "fail": "red",
    "lost": "red",
    "error": "red",
    "timeout": "red",
    "cancelled": "yellow",
    "warn": "yellow",
    "paused": "yellow",
    "shutting_down": "yellow",
}


class Format(StrEnum):
    """What `-o` offers."""

    TABLE = "table"
    JSON = "json"
    JSONL = "jsonl"
    NAME = "name"


class Column(NamedTuple):
    """A table column: its title, and how its cell is read from a row."""

    title: str
    cell: Callable[[Mapping[str, Any]], object]
    right: bool = False


def to_json(value: object, *, indent: int | None = None) -> str:
    """JSON as the API writes it: real characters, the keys' own order."""
    return json.dumps(value, ensure_ascii=False, indent=indent, default=str)


def emit_rows(
    rows: Iterable[Mapping[str, Any]],
    columns: Sequence[Column],
    output: Format,
    *,
    name: Callable[[Mapping[str, Any]], str],
    key: str,
    empty: str,
) -> None:
    """Print a listing. JSON is one object with the API's own `key`; an empty table says `empty`."""
    listed = list(rows)
    if output is Format.JSON:
        click.echo(to_json({key: listed}, indent=2))
    elif output is Format.JSONL:
        for row in listed:
            click.echo(to_json(row))
    elif output is Format.NAME:
        for row in listed:
            click.echo(name(row))
    elif listed:
        print_table(listed, columns)
    else:
        click.echo(empty, err=True)


def emit_record(record: Mapping[str, Any], output: Format, *, name: str = "") -> None:
    """Print one thing: its fields a line each, or JSON."""
    if output is Format.JSONL:
        click.echo(to_json(record))
    elif output is Format.JSON:
        click.echo(to_json(record, indent=2))
    elif output is Format.NAME:
        click.echo(str(record.get(name, "")))
    else:
        print_fields([(key, value) for key, value in record.items() if value is not None])


def print_table(rows: Sequence[Mapping[str, Any]], columns: Sequence[Column]) -> None:
    """Print aligned columns; a terminal's width cuts them, a pipe's does not."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for column in columns:
        table.add_column(
            column.title.upper(),
            justify="right" if column.right else "left",
            no_wrap=True,
            overflow="ellipsis",
        )
    for row in rows:
        cells = [_text(column.cell(row)) for column in columns]
        table.add_row(*(Text(cell, style=_STATUS_COLOURS.get(cell, "")) for cell in cells))
    console().print(table)


def print_fields(fields: Sequence[tuple[str, object]]) -> None:
    """Print `name  value` lines, aligned."""
    width = max((len(name) for name, _ in fields), default=0)
    for name, value in fields:
        lines = _text(value).splitlines() or [""]
        click.echo(f"{click.style(name.ljust(width), bold=True)}  {lines[0]}")
        for line in lines[1:]:
            click.echo(f"{' ' * width}  {line}")


def _text(value: object) -> str:
    if value is None or value == "":
        return "-"
    if isinstance(value, dict | list):
        return to_json(value)
    return str(value)


def console(*, stderr: bool = False) -> Console:
    """A rich console on stdout or stderr that honours NO_COLOR, FORCE_COLOR and TERM=dumb."""
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else WIDE_ENOUGH
    return Console(stderr=stderr, width=width, highlight=False, soft_wrap=not stream.isatty())


def note(message: str) -> None:
    """Say something to the person on stderr."""
    click.echo(message, err=True)


def ago(moment: str | None, *, now: datetime | None = None) -> str:
    """An ISO time as `12s ago`; `-` for none."""
    if not moment:
        return "-"
    then = datetime.fromisoformat(moment)
    seconds = ((now or datetime.now(UTC)) - then).total_seconds()
    return f"{duration(abs(seconds))} ago" if seconds >= 0 else f"in {duration(-seconds)}"


def duration(seconds: float) -> str:
    """Seconds for people: `0.4s`, `12s`, `3m 20s`, `2h 5m`, `3d 4h`."""
    if seconds < 10:
        return f"{seconds:.1f}s"
    whole = int(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m {whole % 60}s"
    if whole < 86400:
        return f"{whole // 3600}h {whole % 3600 // 60}m"
    return f"{whole // 86400}d {whole % 86400 // 3600}h"


def size(count: float) -> str:
    """Bytes for people: `512 B`, `98.4 MB`."""
    value = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"


def shorten(text: str, width: int) -> str:
    """One line of at most `width` characters."""
    line = " ".join(text.split())
    return line if len(line) <= width else line[: width - 1] + "…"
