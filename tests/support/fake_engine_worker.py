"""A worker process with engines that obey their prompts: to be killed with -9."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from fake_engine import FakeEngines

from neuron.config import Settings, load_settings
from neuron.utils.logging import configure_logging
from neuron.worker import NEURONWorker


@contextlib.contextmanager
def worker_process(settings: Settings, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run one with these settings; it never outlives the block."""
    given = settings.model_dump(exclude_unset=True)
    names = {f"NEURON_{name.upper()}": _as_text(value) for name, value in given.items()}
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("NEURON_")},
        **names,
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    with log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, __file__], stdout=output, stderr=subprocess.STDOUT, env=environment
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait(30)


def _as_text(value: object) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


async def _main() -> None:
    settings = load_settings()
    configure_logging(settings.log_level, "json")
    engines = FakeEngines()
    engines.go.set()
    worker = NEURONWorker(settings, engine_factory=engines)
    asyncio.get_running_loop().add_signal_handler(
        signal.SIGTERM, worker.on_signal, signal.Signals.SIGTERM
    )
    await worker.start()


if __name__ == "__main__":
    asyncio.run(_main())
