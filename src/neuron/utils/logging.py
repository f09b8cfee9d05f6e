"""Structured logs on stderr: for a person on a terminal, else one JSON object a line."""

from __future__ import annotations

import json
import logging
import os
import sys
from typing import Any, Literal

import msgspec
import structlog
from structlog.typing import Processor

LogFormat = Literal["auto", "console", "json"]


class LevelledLogger(structlog.BoundLoggerBase):
    """Logs what is at or above the process's level, straight to stderr.

    The standard library's records would cost more than all else that is done for a small job.
    """

    threshold = logging.INFO

    def debug(self, event: str, **fields: Any) -> None:
        """Log for somebody who looks for a fault."""
        if LevelledLogger.threshold <= logging.DEBUG:
            self._proxy_to_logger("debug", event, **fields)

    def info(self, event: str, **fields: Any) -> None:
        """Log what goes on."""
        if LevelledLogger.threshold <= logging.INFO:
            self._proxy_to_logger("info", event, **fields)

    def warning(self, event: str, **fields: Any) -> None:
        """Log what is not as it should be."""
        if LevelledLogger.threshold <= logging.WARNING:
            self._proxy_to_logger("warning", event, **fields)

    def error(self, event: str, **fields: Any) -> None:
        """Log what went wrong."""
        if LevelledLogger.threshold <= logging.ERROR:
            self._proxy_to_logger("error", event, **fields)

    def exception(self, event: str, **fields: Any) -> None:
        """Log what went wrong, with the exception that is being handled."""
        self.error(event, **{"exc_info": True, **fields})

    def critical(self, event: str, **fields: Any) -> None:
        """Log what must not be."""
        self._proxy_to_logger("critical", event, **fields)


def debug_is_logged() -> bool:
    """Whether it is worth making what only a line at that level would say."""
    return LevelledLogger.threshold <= logging.DEBUG


def configure_logging(level: str, log_format: LogFormat = "auto") -> None:
    """Send every log line of this process, the libraries' too, to stderr."""
    console = log_format == "console" or (log_format == "auto" and sys.stderr.isatty())
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    final: list[Processor] = (
        [structlog.dev.ConsoleRenderer(colors=_wants_colours())]
        if console
        else [
            structlog.processors.dict_tracebacks,
            structlog.processors.JSONRenderer(serializer=_json_line),
        ]
    )
    structlog.configure(
        processors=[*shared, *final],
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
        wrapper_class=LevelledLogger,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *final],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    set_log_level(level)


def _wants_colours() -> bool:
    return sys.stderr.isatty() and not os.environ.get("NO_COLOR")


def _json_line(line: dict[str, Any], **_: Any) -> str:
    try:
        return msgspec.json.encode(line, enc_hook=repr).decode()
    except (TypeError, ValueError, OverflowError):  # odd keys, and text that is not Unicode
        return json.dumps(line, default=repr, skipkeys=True)


def set_log_level(level: str) -> None:
    """Change the level of the whole process; libraries stay at warnings."""
    number: int = logging.getLevelNamesMapping()[level.upper()]
    LevelledLogger.threshold = number
    logging.getLogger().setLevel(logging.WARNING)
    for name in ("neuron", "mnemos"):
        logging.getLogger(name).setLevel(number)
    # `python -m neuron.worker` logs as __main__.
    logging.getLogger("__main__").setLevel(number)
