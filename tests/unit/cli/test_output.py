"""Tables, times, sizes, rates: what people read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from mnemos.cli.output import Column, Format, ago, duration, emit_rows, shorten, size
from mnemos.cli.runs.progress import Rates

ROWS = [{"id": "a", "status": "completed", "note": "x" * 300}, {"id": "b", "status": "failed"}]
COLUMNS = [
    Column("id", lambda row: row["id"]),
    Column("status", lambda row: row["status"]),
    Column("note", lambda row: row.get("note")),
]


def emit(rows: list[dict[str, Any]], output: Format) -> None:
    def name(row: Mapping[str, Any]) -> str:
        return str(row["id"])

    emit_rows(rows, COLUMNS, output, name=name, key="things", empty="Nothing.")


def test_a_piped_table_is_never_cut(capsys: pytest.CaptureFixture[str]) -> None:
    emit(ROWS, Format.TABLE)
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines == [["ID", "STATUS", "NOTE"], ["a", "completed", "x" * 300], ["b", "failed", "-"]]


def test_json_carries_the_api_key_and_nothing_else(capsys: pytest.CaptureFixture[str]) -> None:
    emit(ROWS, Format.JSON)
    captured = capsys.readouterr()
    assert json.loads(captured.out) == {"things": ROWS}
    assert captured.err == ""


def test_jsonl_is_a_line_each(capsys: pytest.CaptureFixture[str]) -> None:
    emit(ROWS, Format.JSONL)
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == ROWS


def test_names_are_bare(capsys: pytest.CaptureFixture[str]) -> None:
    emit(ROWS, Format.NAME)
    assert capsys.readouterr().out == "a\nb\n"


def test_an_empty_table_says_so_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    emit([], Format.TABLE)
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "Nothing.\n")


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.42, "0.4s"), (12, "12s"), (200, "3m 20s"), (7500, "2h 5m"), (273600, "3d 4h")],
)
def test_durations(seconds: float, words: str) -> None:
    assert duration(seconds) == words


def test_times_are_relative() -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    assert ago((now - timedelta(seconds=90)).isoformat(), now=now) == "1m 30s ago"
    assert ago((now + timedelta(seconds=20)).isoformat(), now=now) == "in 20s"
    assert ago("2025-12-31T23:59:58.500Z", now=now) == "1.5s ago"
    assert ago(None) == "-"


@pytest.mark.parametrize(
    ("count", "words"), [(512, "512 B"), (98_362_432, "98.4 MB"), (3e12, "3.0 TB")]
)
def test_sizes(count: float, words: str) -> None:
    assert size(count) == words


def test_long_text_becomes_one_short_line() -> None:
    assert shorten("a\n b  c", 10) == "a b c"
    assert shorten("abcdef", 4) == "abc…"


def test_rates_look_at_the_last_half_minute() -> None:
    rates = Rates(done=10, now=0.0)
    rates.add(10.0, done=20, tokens=100)
    assert rates.read(10.0) == (1.0, 10.0)
    rates.add(35.0, done=70, tokens=900)
    jobs, tokens = rates.read(35.0)
    assert (jobs, tokens) == (2.0, 36.0), "the first mark has left the window"
