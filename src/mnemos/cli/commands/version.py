"""`mnemos version`."""

from __future__ import annotations

import platform
import sys
from importlib.metadata import PackageNotFoundError, version

import click

from ..options import output_option
from ..output import Format, emit_record

PACKAGES = ("torch", "transformers", "vllm", "grpcio", "protobuf", "obstore", "sqlalchemy")


def installed_version(package: str) -> str | None:
    """A package's version without importing it; None when it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


@click.command("version")
@output_option()
def show_versions(output: Format) -> None:
    """Print the versions in use.

    \b
    Examples
      mnemos version
      mnemos version -o json
    """
    emit_record(
        {
            "mnemos": version("mnemos-neuron"),
            "python": platform.python_version(),
            "executable": sys.executable,
            "platform": platform.platform(),
            **{package: installed_version(package) for package in PACKAGES},
        },
        output,
        name="mnemos",
    )
