"""The sidecar of an unfinished run: who it is, so that the same command continues it."""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import Any

import msgspec

from ..errors import Conflict
from .lines import Survey


class RunSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What every line of a run shares; two runs with other settings are two runs."""

    family: str
    version: str | None = None
    runtime: str | None = None
    parameters: dict[str, Any] = {}
    system: str | None = None
    priority: int = 5
    timeout_seconds: int = 300
    max_retries: int = 3


class RunRecord(msgspec.Struct, kw_only=True):
    """What the sidecar holds. `cursor` never points past what OUT durably holds."""

    run_id: str
    input_sha256: str
    settings: RunSettings
    cortex_url: str
    cursor: str = ""


def new_record(found: Survey, settings: RunSettings, cortex_url: str) -> RunRecord:
    """The record of a run that begins now."""
    return RunRecord(
        run_id=f"run_{secrets.token_hex(8)}",
        input_sha256=found.sha256,
        settings=settings,
        cortex_url=cortex_url,
    )


def sidecar_of(out: Path) -> Path:
    """Where the record of the run that writes `out` lies."""
    return out.with_name(out.name + ".run")


def load(path: Path) -> RunRecord | None:
    """Read a sidecar; None when there is none. Raises Conflict for one that is not ours."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=RunRecord)
    except FileNotFoundError:
        return None
    except msgspec.DecodeError as error:
        raise Conflict(
            f"{path} is not the record of a run ({error}).",
            hint="choose another -o, or delete the answers and start over with --restart",
        ) from error


def save(path: Path, record: RunRecord) -> None:
    """Write a sidecar atomically and durably."""
    staging = path.with_name(path.name + ".new")
    with staging.open("wb") as file:
        file.write(msgspec.json.format(msgspec.json.encode(record), indent=2) + b"\n")
        file.flush()
        os.fsync(file.fileno())
    staging.replace(path)


def check_same_run(record: RunRecord, found: Survey, settings: RunSettings, out: Path) -> None:
    """Raise Conflict unless `record` belongs to this file and these settings."""
    differences = [
        f"{name} was {getattr(record.settings, name)!r} and is {getattr(settings, name)!r}"
        for name in RunSettings.__struct_fields__
        if getattr(record.settings, name) != getattr(settings, name)
    ]
    if record.input_sha256 != found.sha256:
        differences.insert(0, "the prompt file has changed")
    if differences:
        raise Conflict(
            f"{out} belongs to an unfinished run that is not this one: {'; '.join(differences)}.",
            code="other_run",
            hint="finish it with its own command, choose another -o, "
            "or delete its answers and start over with --restart",
        )
