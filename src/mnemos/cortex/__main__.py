"""`python -m mnemos.cortex`: CORTEX alone, until SIGTERM or SIGINT."""

from __future__ import annotations

import asyncio
import os
import signal
import sys

import structlog
import uvloop
from pydantic import ValidationError

from mnemos.collector import calm_collector
from mnemos.http import PortUnavailableError, describe_validation_errors

from .errors import StartError
from .logs import configure_logging
from .server import CortexServer
from .settings import CortexSettings, unknown_settings

_log = structlog.get_logger(__name__)


def main() -> int:
    """Run CORTEX; return the exit status: 0 after a signal, 1 when it cannot start."""
    try:
        settings = CortexSettings()
    except ValidationError as error:
        message, field = describe_validation_errors(error.errors(include_url=False))
        name = (field or "").split(".")[0]
        return _fail(message.replace(name, f"CORTEX_{name.upper()}", 1))
    configure_logging(settings.log_level, settings.log_format)
    for name in unknown_settings(os.environ):
        _log.warning("cortex.unknown_setting", name=name)
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
        await stopped.wait()
        _log.info("cortex.stopping")


def _fail(message: str) -> int:
    sys.stderr.write(f"cortex: {message}\n")
    return 1


if __name__ == "__main__":
    sys.exit(main())
