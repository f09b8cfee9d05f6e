"""Times as people type them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import click
import pytest

from mnemos.cli.durations import moment_option, parse_seconds, seconds_option

CONTEXT = click.Context(click.Command("any"))
OPTION = click.Option(["--any"])


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("30", 30),
        ("0", 0),
        ("1.5", 1.5),
        ("90s", 90),
        ("5m", 300),
        ("2h", 7200),
        ("7d", 604_800),
        ("1h30m", 5400),
        ("3m 20s", 200),
        ("", None),
        ("soon", None),
        ("-5", None),
        ("5 weeks", None),
        ("1h30", None),
        ("inf", None),
        ("9" * 400, None),
    ],
)
def test_durations(text: str, seconds: float | None) -> None:
    assert parse_seconds(text) == seconds


def test_an_option_says_how_a_duration_is_written_and_how_long_it_may_be() -> None:
    read = seconds_option(3600)
    assert read(CONTEXT, OPTION, None) is None
    assert read(CONTEXT, OPTION, "1h") == 3600
    with pytest.raises(click.BadParameter, match="write it like 30, 90s, 5m or 2h"):
        read(CONTEXT, OPTION, "soon")
    with pytest.raises(click.BadParameter, match="3600 s at most"):
        read(CONTEXT, OPTION, "2h")


def test_a_moment_is_a_date_or_some_time_ago() -> None:
    assert moment_option(CONTEXT, OPTION, None) is None
    ago = moment_option(CONTEXT, OPTION, "2h")
    assert ago is not None
    assert abs(datetime.now(UTC) - ago - timedelta(hours=2)) < timedelta(minutes=1)
    exact = moment_option(CONTEXT, OPTION, "2026-01-31T12:00:00+02:00")
    assert exact == datetime(2026, 1, 31, 10, tzinfo=UTC)
    for nonsense in ("yesterday", "2026-99-99"):
        with pytest.raises(click.BadParameter, match="is no time"):
            moment_option(CONTEXT, OPTION, nonsense)
