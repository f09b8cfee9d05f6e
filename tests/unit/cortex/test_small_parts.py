from __future__ import annotations

import asyncio
import re

import pytest

from mnemos.cortex.api.cursors import read_cursor, write_cursor
from mnemos.cortex.clock import as_text, steady_clock
from mnemos.cortex.grpc.incoming import strict_json, strict_object
from mnemos.cortex.ids import new_id
from mnemos.cortex.notifier import LocalNotifier
from mnemos.cortex.settings import CortexSettings, unknown_settings
from mnemos.http import ApiError


@pytest.mark.parametrize("number", [0, 1, 63, 10**6, 2**62])
def test_a_cursor_comes_back_as_the_number_it_was(number: int) -> None:
    assert read_cursor(write_cursor(number), "cursor") == number


@pytest.mark.parametrize("text", ["", "x", "YzE=", "YzE ", "é", "Yy0x", "YzAx", "AAAA", "*" * 50])
def test_a_cursor_that_was_never_given_is_refused(text: str) -> None:
    with pytest.raises(ApiError) as caught:
        read_cursor(text, "after")
    assert (caught.value.status_code, caught.value.field) == (422, "after")


def test_ids_are_unique_and_sort_by_time() -> None:
    ids = [new_id("job") for _ in range(500)]
    assert len(set(ids)) == 500
    assert all(re.fullmatch(r"job_[0-9a-z]{26}", one) for one in ids)
    stamps = [one[4:13] for one in ids]
    assert stamps == sorted(stamps)


def test_the_steady_clock_never_goes_back() -> None:
    clock = steady_clock()
    readings = [clock() for _ in range(1000)]
    assert readings == sorted(readings)


def test_times_are_written_in_utc_with_milliseconds() -> None:
    assert as_text(0.25) == "1970-01-01T00:00:00.250Z"
    assert as_text(None) is None


@pytest.mark.parametrize(
    ("text", "mended"),
    [
        ('{"a":1}', '{"a":1}'),
        ('"é"', '"é"'),
        ("NaN", "null"),
        ('{"a":[NaN,-Infinity,1.5]}', '{"a": [null, null, 1.5]}'),
        ("{", None),
        ("", None),
        ("[" * 100_000, None),
    ],
)
def test_json_of_workers_is_mended_or_refused(text: str, mended: str | None) -> None:
    assert strict_json(text) == mended


@pytest.mark.parametrize("text", ["", "[]", "1", "{", "null"])
def test_what_must_be_an_object_becomes_one(text: str) -> None:
    assert strict_object(text) == "{}"


async def test_a_waiter_hears_only_its_topics() -> None:
    notifier = LocalNotifier()
    with notifier.subscribe("a", "b") as ear:
        notifier.notify(["c"])
        assert not await ear.wait(0)
        notifier.notify(["b"])
        assert await ear.wait(0)
        ear.clear()
        assert not await ear.wait(0)


async def test_what_happens_between_clear_and_wait_is_heard() -> None:
    notifier = LocalNotifier()
    with notifier.subscribe("a") as ear:
        ear.clear()
        notifier.notify(["a"])
        assert await ear.wait(0)


async def test_closing_wakes_everybody() -> None:
    notifier = LocalNotifier()
    with notifier.subscribe("a") as ear:
        async with asyncio.TaskGroup() as group:
            waiting = group.create_task(ear.wait(60))
            notifier.close()
        assert waiting.result()
    assert notifier.closed


def test_a_mistyped_setting_is_noticed() -> None:
    environment = {"CORTEX_HTTP_PORT": "1", "CORTEX_HTP_PORT": "1", "PATH": ""}
    assert unknown_settings(environment) == ["CORTEX_HTP_PORT"]


def test_a_port_out_of_range_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CORTEX_HTTP_PORT", "70000")
    with pytest.raises(ValueError, match="http_port"):
        CortexSettings()


@pytest.mark.parametrize(
    ("host", "exposed"),
    [("127.0.0.1", False), ("::1", False), ("localhost", False), ("0.0.0.0", True)],  # noqa: S104
)
def test_addresses_beyond_loopback_are_known(host: str, *, exposed: bool) -> None:
    settings = CortexSettings(http_host=host)
    assert bool(settings.exposed_hosts) is exposed
