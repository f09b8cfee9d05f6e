"""`python -m mnemos.genome`: GENOME alone, until SIGTERM or SIGINT.

`python -m mnemos.genome migrate` brings the tables up to date and ends.

Exit status: 0 when asked to stop, 1 when it cannot start or fails, 78 for wrong settings.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import sys

import structlog
import uvloop
from pydantic import ValidationError

from .. import systemd
from ..http import PortUnavailableError
from .errors import GenomeError
from .opening import open_store
from .server import GenomeServer
from .settings import ENV_PREFIX, GenomeSettings, unknown_names

EX_USAGE = 64
EX_CONFIG = 78


def main() -> int:
    """Run GENOME; return the exit status."""
    words = sys.argv[1:]
    if words not in ([], ["migrate"]):
        return _fail(f"unknown words {' '.join(words)!r}: `migrate` is the only one", EX_USAGE)
    try:
        settings = load_settings()
    except ValueError as error:
        return _fail(str(error), EX_CONFIG)
    _configure_logging(settings.log_level)
    try:
        uvloop.run(_migrate(settings) if words else _serve(settings))
    except* (GenomeError, PortUnavailableError) as group:
        return_status = _fail(str(group.exceptions[0]), 1)
    else:
        return_status = 0
    return return_status


def load_settings() -> GenomeSettings:
    """Read the settings of this process. Raises ValueError, in one sentence."""
    unknown = unknown_names()
    if unknown:
        raise ValueError(f"Unknown setting {', '.join(unknown)}.")
    try:
        return GenomeSettings()
    except ValidationError as error:
        first = error.errors()[0]
        name = f"{ENV_PREFIX}{str(first['loc'][0]).upper()}"
        raise ValueError(f"{name}: {first['msg'].removeprefix('Value error, ')}.") from error


async def _serve(settings: GenomeSettings) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with GenomeServer(settings):
        systemd.ready()
        await stop.wait()
        systemd.stopping()


async def _migrate(settings: GenomeSettings) -> None:
    async with open_store(settings):
        structlog.get_logger(__name__).info("genome.migrated")


def _configure_logging(level: str) -> None:
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.dict_tracebacks,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level]),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )


def _fail(sentence: str, status: int) -> int:
    sys.stderr.write(f"genome: {sentence}\n")
    return status


if __name__ == "__main__":
    sys.exit(main())
