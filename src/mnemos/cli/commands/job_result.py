"""`mnemos jobs result`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..options import cortex_option, engram_options

if TYPE_CHECKING:
    from ..engram import EngramTarget


@click.command("result")
@click.argument("job_id")
@click.option(
    "--to",
    "path",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Write it there; the file appears when all of it has come.  [default: stdout]",
)
@engram_options
@cortex_option()
def result_of_job(
    job_id: str, path: Path | None, engram: EngramTarget, data_dir: Path, cortex_url: str
) -> None:
    """Get one job's answer alone, as JSON, whatever its size.

    Large answers lie in ENGRAM. CORTEX reads them from there; where it cannot, this command does.
    Either way they are checked against what the worker reported.

    \b
    Examples
      mnemos jobs result job_01h…
      mnemos jobs result job_01h… --to answer.json
    """
    from ..fetching import fetch_result
    from ..http import run_async
    from ..output import note

    size = run_async(fetch_result(job_id, path, engram, cortex_url))
    if path is not None:
        note(f"Wrote {size} bytes to {path}.")
