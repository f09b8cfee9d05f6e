"""A NEURON worker as a service of this machine: its systemd unit and the file of its settings."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from .errors import CliError, Conflict, UsageFault

UNIT = "neuron-worker.service"
UNIT_PATH = Path("etc/systemd/system") / UNIT
SETTINGS_PATH = Path("etc/mnemos/neuron-worker.env")
PREFIX = "NEURON_"
_PACKAGED_PYTHON = "/opt/mnemos/bin/python"
_HIDDEN = (Path("/home"), Path("/root"), Path("/run/user"), Path("/tmp"))  # noqa: S108
_PLAIN = re.compile(r"[A-Za-z0-9_./:,=@+-]*")


@dataclass(frozen=True)
class Written:
    """Where the files are; `kept_settings` says that those were there before, and stay."""

    unit: Path
    settings: Path
    kept_settings: bool


def unit_text(python: Path) -> str:
    """The unit for an interpreter. Raises UsageFault for one that the service could not read."""
    if not python.is_absolute() or not _PLAIN.fullmatch(str(python)):
        raise UsageFault(f"{python} is no absolute path of plain characters.", field="python")
    if any(python.is_relative_to(folder) for folder in _HIDDEN):
        raise UsageFault(
            f"The service's user cannot read {python}.",
            field="python",
            hint="make an environment below /opt and install mnemos-neuron there",
        )
    text = resources.files(__package__).joinpath("units", UNIT).read_text()
    return text.replace(_PACKAGED_PYTHON, str(python))


def settings_text(environment: Mapping[str, str]) -> str:
    """The NEURON_* variables as systemd reads them from a file. Raises UsageFault."""
    lines = ["# The worker's settings; `systemctl restart neuron-worker` after a change."]
    for name, value in sorted(environment.items()):
        if name.startswith(PREFIX):
            lines.append(f"{name}={_quoted(name, value)}")
    return "\n".join(lines) + "\n"


def write_files(root: Path, unit: str, settings: str, *, replace: bool) -> Written:
    """Write both below `root`; the settings, which hold secrets, for root's eyes alone.

    Settings that are there stay unless `replace`. Raises Conflict for another unit that is there,
    and CliError for a disk or rights that do not let it.
    """
    unit_path, settings_path = root / UNIT_PATH, root / SETTINGS_PATH
    try:
        if unit_path.exists() and unit_path.read_text() != unit and not replace:
            raise Conflict(f"{unit_path} is there and differs.", hint="--replace overwrites it")
        kept = settings_path.exists() and not replace
        if not kept:
            _write(settings_path, settings, 0o600)
        _write(unit_path, unit, 0o644)
    except OSError as error:
        raise CliError(
            f"{error.filename or unit_path} cannot be written: {error.strerror}.",
            hint="installing a service takes root" if isinstance(error, PermissionError) else None,
        ) from error
    return Written(unit_path, settings_path, kept)


def _write(path: Path, text: str, mode: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.new")
    fresh.unlink(missing_ok=True)
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
    fresh.replace(path)


def _quoted(name: str, value: str) -> str:
    if "\n" in value or "\0" in value:
        raise UsageFault(f"{name} has more than one line.", field=name)
    if _PLAIN.fullmatch(value):
        return value
    escaped = (
        value.replace("\\", "\\\\").replace('"', '\\"').replace("$", "\\$").replace("`", "\\`")
    )
    return f'"{escaped}"'
