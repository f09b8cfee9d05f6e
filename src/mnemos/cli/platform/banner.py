"""What `mnemos up` says first, and how its logs look."""

from __future__ import annotations

import logging
import os
import sys
from importlib.metadata import version
from typing import TextIO

import click

from ..options import DEFAULT_MODEL
from ..output import size
from .options import Addresses, UpOptions


def print_banner(options: UpOptions, where: Addresses, device: str) -> None:
    """Version, device, where everything is, and what to type next; on stdout."""
    workers = f"{options.workers}, {options.max_concurrent_jobs} jobs at a time each"
    lines = [
        ("device", device),
        ("data", str(options.data_dir)),
        ("CORTEX", f"{where.cortex_url}  (API at /openapi.json; workers dial {where.cortex_grpc})"),
        ("GENOME", where.genome_url),
        ("ENGRAM", where.engram_url),
        ("workers", workers if options.workers else "none: start some with NEURON_* and neuron"),
    ]
    if options.quiet:
        lines.append(("logs", str(options.logs_dir)))
    click.echo(click.style(f"MNEMOS NEURON {version('mnemos-neuron')}", bold=True))
    for name, value in lines:
        click.echo(f"  {name:<8} {value}")
    click.echo(_next_steps(where))


def _next_steps(where: Addresses) -> str:
    family = DEFAULT_MODEL.partition(":")[0]
    body = f'{{"model":{{"family":"{family}"}},"input":{{"prompt":"Hello!"}}}}'
    return (
        f"\nNext, in another terminal:\n"
        f"  mnemos models pull {DEFAULT_MODEL}\n"
        f"  mnemos chat\n"
        f"  curl {where.cortex_url}/api/v1/jobs -H 'content-type: application/json' \\\n"
        f"    -d '{body}'\n"
        f"Ctrl-C stops everything.\n"
    )


def describe_device() -> str:
    """The GPUs, or the CPU. Blocking for some milliseconds; never fails."""
    return _gpus() or _cpu()


def _gpus() -> str:
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return ""
    try:
        handles = map(pynvml.nvmlDeviceGetHandleByIndex, range(pynvml.nvmlDeviceGetCount()))
        return ", ".join(
            f"{pynvml.nvmlDeviceGetName(handle)} "
            f"({size(pynvml.nvmlDeviceGetMemoryInfo(handle).total)})"
            for handle in handles
        )
    except pynvml.NVMLError:
        return ""
    finally:
        pynvml.nvmlShutdown()


def _cpu() -> str:
    import psutil

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"CPU, {cores} cores, {size(psutil.virtual_memory().total)} RAM"


def configure_logging(options: UpOptions) -> None:
    """Structured lines of CORTEX and GENOME: to stderr, or to a file with `--quiet`."""
    import structlog

    stream: TextIO = sys.stderr
    if options.quiet:
        options.logs_dir.mkdir(parents=True, exist_ok=True)
        stream = (options.logs_dir / "platform.log").open("a", buffering=1, encoding="utf-8")
    colours = stream.isatty() and "NO_COLOR" not in os.environ
    console = structlog.dev.ConsoleRenderer(colors=colours)
    renderer = structlog.processors.JSONRenderer() if options.quiet else console
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *([structlog.processors.dict_tracebacks] if options.quiet else []),
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(stream),
        cache_logger_on_first_use=True,
    )
    logging.basicConfig(stream=stream, level=logging.WARNING, format="%(name)s: %(message)s")
