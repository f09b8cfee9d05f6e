"""What a log line looks like, and which lines are written."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from neuron.utils.logging import configure_logging, set_log_level


@pytest.fixture(autouse=True)
def _undo() -> Iterator[None]:
    handlers, level = logging.getLogger().handlers[:], logging.getLogger().level
    yield
    structlog.reset_defaults()
    set_log_level("INFO")
    logging.getLogger().handlers[:] = handlers
    logging.getLogger().setLevel(level)


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capsys.readouterr().err.splitlines()]


def test_a_line_is_an_object_with_its_fields(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("INFO", "json")

    structlog.get_logger("neuron.any").info("job_acquired", job_id="job_1", attempt=2)

    (line,) = lines(capsys)
    assert line.pop("timestamp").endswith("Z")
    assert line == {"event": "job_acquired", "level": "info", "job_id": "job_1", "attempt": 2}


def test_the_level_can_be_changed_at_any_time(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("WARNING", "json")
    logger = structlog.get_logger("neuron.any").bind(worker="w")

    for level in ("WARNING", "DEBUG", "ERROR"):
        set_log_level(level)
        for name in ("debug", "info", "warning", "error", "critical"):
            getattr(logger, name)(f"{level} {name}")

    told = [line["event"] for line in lines(capsys)]
    assert told == [
        *(f"WARNING {name}" for name in ("warning", "error", "critical")),
        *(f"DEBUG {name}" for name in ("debug", "info", "warning", "error", "critical")),
        *(f"ERROR {name}" for name in ("error", "critical")),
    ]


def test_an_exception_is_told_with_its_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("INFO", "json")
    logger = structlog.get_logger("neuron.any")
    try:
        raise ValueError("no such tensor")
    except ValueError as error:
        logger.error("failed", exc_info=error)
        logger.exception("failed")

    for line in lines(capsys):
        assert line["exception"][0]["exc_value"] == "no such tensor"


@pytest.mark.parametrize("value", [object(), "a\udcff", {1: {2}}, 2**70])
def test_whatever_a_field_holds_a_line_is_written(
    value: object, capsys: pytest.CaptureFixture[str]
) -> None:
    configure_logging("INFO", "json")

    structlog.get_logger("neuron.any").info("odd", value=value)

    (line,) = lines(capsys)
    assert line["event"] == "odd"


def test_libraries_and_the_standard_loggers_go_the_same_way(
    capsys: pytest.CaptureFixture[str],
) -> None:
    configure_logging("INFO", "json")

    logging.getLogger("neuron.runtimes").info("loaded %s", "tiny")
    logging.getLogger("somebody.else").info("not told")
    logging.getLogger("somebody.else").warning("told")

    assert [line["event"] for line in lines(capsys)] == ["loaded tiny", "told"]


def test_a_person_reads_text(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("INFO", "console")

    structlog.get_logger("neuron.any").info("worker_ready", port=8000)

    assert re.search(r"worker_ready .*port.*8000", capsys.readouterr().err)
