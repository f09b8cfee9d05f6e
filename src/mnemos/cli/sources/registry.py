"""GENOME as the command line speaks to it: its client, with the errors told in our words."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from mnemos.engram.errors import EngramError
from mnemos.genome.client import GenomeClient
from mnemos.genome.errors import GenomeError

from ..engram import engram_fault
from ..errors import CliError, Conflict, NotFound, NotLetIn, Unreachable, UsageFault

__all__ = ["GenomeClient", "find_model", "known_files", "open_genome", "told_plainly"]

VERSIONS_ASKED = 8


def open_genome(url: str) -> GenomeClient:
    """A client of GENOME that brings the token of the environment, if there is one."""
    return GenomeClient(url, token=os.environ.get("MNEMOS_GENOME_TOKEN") or None)


@contextmanager
def told_plainly(*untouched: type[GenomeError]) -> Iterator[None]:
    """Turn what GENOME and ENGRAM raise into CliError, but for what the caller answers itself."""
    try:
        yield
    except untouched:
        raise
    except GenomeError as error:
        raise _genome_fault(error) from error
    except EngramError as error:
        raise engram_fault(error) from error


def _genome_fault(error: GenomeError) -> CliError:
    if error.code in ("model_not_found", "tag_not_found"):
        return NotFound(error.message, code=error.code, hint="see them all: mnemos models list")
    if error.code in ("conflict", "precondition_failed"):
        return Conflict(error.message, code=error.code)
    if error.code == "unauthorized":
        return NotLetIn(error.message, code=error.code, hint="set MNEMOS_GENOME_TOKEN to it")
    if error.code == "unavailable":
        return Unreachable(error.message, hint="start it with: mnemos up")
    return UsageFault(error.message, code=error.code, field=error.field)


async def find_model(genome: GenomeClient, family: str, version: str) -> dict[str, Any] | None:
    """A registered version, or None. Raises CliError when GENOME cannot say.

    Conflict for a version tag: no version may be registered under its name.
    """
    try:
        with told_plainly():
            found = await genome.get(family, version)
    except NotFound:
        return None
    if found.version != version:
        raise Conflict(
            f"{version} is a version tag of {family}, which points to {found.version}.",
            hint="name a version",
        )
    return found.model_dump(mode="json")


async def known_files(genome: GenomeClient, family: str, bucket: str) -> dict[str, str]:
    """The files of a family's newest versions in that bucket: SHA-256 to key. Raises CliError."""
    found: dict[str, str] = {}
    with told_plainly():
        page = await genome.list(limit=VERSIONS_ASKED, family=family)
        for each in page.models:
            if each.artifact.bucket == bucket:
                model = await genome.get(each.family, each.version)
                keys = {file.sha256: f"{model.artifact_path}/{file.path}" for file in model.files}
                found = keys | found
    return found
