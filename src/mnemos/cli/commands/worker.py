"""`mnemos worker`: a worker of this machine."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import click

from ..errors import CliError
from ..lazy import SuggestingGroup
from ..output import note


@click.group("worker", cls=SuggestingGroup)
def worker() -> None:
    """Make this machine a worker that systemd keeps running.

    \b
    Examples
      mnemos worker install --print
      sudo --preserve-env mnemos worker install
    """


@worker.command("install")
@click.option(
    "--python",
    type=click.Path(path_type=Path),
    default=Path(sys.executable),
    show_default="the one that runs this command",
    help="Whose environment the worker is installed in.",
)
@click.option("--print", "only_print", is_flag=True, help="Show the two files; change nothing.")
@click.option("--replace", is_flag=True, help="Overwrite a unit and settings that are there.")
@click.option("--no-start", is_flag=True, help="Write the files; start nothing.")
@click.option(
    "--root",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("/"),
    show_default=True,
    help="Write below this folder, as for an image; starts nothing.",
)
def install(python: Path, only_print: bool, replace: bool, no_start: bool, root: Path) -> None:
    """Install a NEURON worker as a service and start it.

    The NEURON_* variables of this command become the service's settings, in
    /etc/mnemos/neuron-worker.env, which root alone can read; settings that are there stay.

    \b
    Examples
      export NEURON_CORTEX_GRPC_URL=cortex.example:9090 NEURON_CORTEX_TOKEN=…
      sudo --preserve-env mnemos worker install
      mnemos worker install --print
    """
    from ..worker_unit import UNIT, settings_text, unit_text, write_files

    unit, settings = unit_text(python), settings_text(os.environ)
    if only_print:
        click.echo(f"{unit}\n{settings}", nl=False)
        return
    written = write_files(root, unit, settings, replace=replace)
    note(f"unit      {written.unit}")
    note(f"settings  {written.settings}{' (as they were)' if written.kept_settings else ''}")
    if no_start or root != Path("/"):
        note(f"Next: systemctl daemon-reload && systemctl enable --now {UNIT}")
        return
    _systemctl("daemon-reload")
    _systemctl("enable", "--now", UNIT)
    note(f"It runs: systemctl status {UNIT}, journalctl -u {UNIT}")


def _systemctl(*words: str) -> None:
    program = shutil.which("systemctl")
    if program is None:
        raise CliError("This machine has no systemctl.", hint="--no-start writes the files alone")
    done = subprocess.run([program, *words], capture_output=True, text=True)  # noqa: S603
    if done.returncode != 0:
        said = (done.stderr.strip() or f"exit status {done.returncode}").splitlines()[-1]
        raise CliError(f"systemctl {' '.join(words)} failed: {said.rstrip('.')}.")
