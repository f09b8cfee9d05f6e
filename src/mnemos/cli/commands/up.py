"""`mnemos up`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..options import engram_options
from ..output import note

if TYPE_CHECKING:
    from ..engram import EngramTarget
    from ..platform.options import UpOptions

PORT = click.IntRange(0, 65535)


@click.command("up")
@click.option(
    "--workers",
    type=click.IntRange(0, 256),
    envvar="MNEMOS_WORKERS",
    show_envvar=True,
    default=1,
    show_default=True,
    help="How many NEURON workers to start.",
)
@click.option("--no-worker", is_flag=True, help="Start none; the same as --workers 0.")
@click.option(
    "--max-concurrent-jobs",
    type=click.IntRange(1, 1024),
    envvar="MNEMOS_MAX_CONCURRENT_JOBS",
    show_envvar=True,
    default=16,
    show_default=True,
    help="Jobs that one worker runs at a time.",
)
@click.option(
    "--host",
    envvar="MNEMOS_HOST",
    show_envvar=True,
    default="127.0.0.1",
    show_default=True,
    help="The address to listen on. One that others reach takes CORTEX_ADMIN_KEY and GENOME_TOKEN.",
)
@click.option(
    "--http-port", type=PORT, default=8080, show_default=True, help="CORTEX's HTTP; 0: a free one."
)
@click.option(
    "--grpc-port", type=PORT, default=9090, show_default=True, help="CORTEX's gRPC; 0: a free one."
)
@click.option(
    "--genome-port", type=PORT, default=8081, show_default=True, help="GENOME; 0: a free one."
)
@click.option(
    "--worker-port",
    type=PORT,
    default=8000,
    show_default=True,
    help="The first worker's health; the next ones follow. 0: free ones.",
)
@click.option(
    "--drain-seconds",
    type=click.FloatRange(0, 3600),
    default=30.0,
    show_default=True,
    help="How long jobs may finish when this is stopped.",
)
@click.option("--quiet", is_flag=True, help="Write logs to files below the data folder instead.")
@engram_options
def up(workers: int, no_worker: bool, engram: EngramTarget, data_dir: Path, **given: Any) -> None:
    """Start CORTEX, GENOME and NEURON workers on this machine.

    Everything is kept below the data folder and is there again next time; jobs are kept in
    PostgreSQL instead where CORTEX_DATABASE_URL names a database, and so are the descriptions of
    models where GENOME_DATABASE_URL does. Ctrl-C or SIGTERM lets the workers finish or hand back
    their jobs, then ends; a second Ctrl-C ends at once.

    \b
    Examples
      mnemos up
      mnemos up --workers 2 --data-dir ./data
      mnemos up --http-port 8090 --grpc-port 9190 --genome-port 8091 --worker-port 8100
    """
    from ..platform.options import UpOptions

    options = UpOptions(
        data_dir=data_dir, engram=engram, workers=0 if no_worker else workers, **given
    )
    _run(options)


def _run(options: UpOptions) -> None:
    from ..platform.banner import configure_logging, describe_device, print_banner
    from ..platform.supervisor import Supervisor

    # gRPC's fork handlers would only complain: the workers are new programs, not copies of us.
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    configure_logging(options)
    device = describe_device()

    async def serve() -> None:
        supervisor = Supervisor(
            options, say=note, on_ready=lambda where: print_banner(options, where, device)
        )
        await supervisor.run()

    import uvloop

    from mnemos.collector import calm_collector

    calm_collector()
    uvloop.run(serve())
    note("Stopped.")
