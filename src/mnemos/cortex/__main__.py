"""`python -m mnemos.cortex`: CORTEX alone, until SIGTERM or SIGINT.

`python -m mnemos.cortex migrate` brings the tables up to date and ends.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys

import structlog
import uvloop
from pydantic import ValidationError

from mnemos import systemd
from mnemos.collector import calm_collector
from mnemos.http import PortUnavailableError, describe_validation_errors

from .errors import StartError
from .logs import configure_logging
from .server import CortexServer
from .settings import CortexSettings, unknown_settings
from .sql.migration import migrate_database

_log = structlog.get_logger(__name__)


EX_USAGE = 64
EX_CONFIG = 78


def main() -> int:
    """Run CORTEX; return the exit status.

    0 after a signal, 1 when it cannot start, 78 for settings that cannot be, 64 for other words.
    """
    words = sys.argv[1:]
    if words not in ([], ["migrate"]):
        return _fail(f"unknown words {' '.join(words)!r}: `migrate` is the only one", EX_USAGE)
    try:
        settings = CortexSettings()
    except ValidationError as error:
        message, field = describe_validation_errors(error.errors(include_url=False))
        name = (field or "").split(".")[0]
        return _fail(message.replace(name, f"CORTEX_{name.upper()}", 1), EX_CONFIG)
    configure_logging(settings.log_level, settings.log_format)
    for name in unknown_settings(os.environ):
        _log.warning("cortex.unknown_setting", name=name)
    if words:
        return _migrate(settings)
    calm_collector()
    try:
        uvloop.run(_serve(settings))
    except (StartError, PortUnavailableError) as error:
        return _fail(str(error))
    return 0


async def _serve(settings: CortexSettings) -> None:
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    async with CortexServer(settings):
        systemd.ready()
        await stopped.wait()
        systemd.stopping()
        _log.info("cortex.stopping")


def _migrate(settings: CortexSettings) -> int:
    try:
        migrate_database(settings)
    except StartError as error:
        return _fail(str(error))
    _log.info("cortex.migrated")
    return 0


def _fail(message: str, status: int = 1) -> int:
    sys.stderr.write(f"cortex: {message}\n")
    return status


if __name__ == "__main__":
    sys.exit(main())
