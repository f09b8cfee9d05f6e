"""Signing a registered version, and asking whether a key vouches for one."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mnemos.engram.signing import SignedFile, sign_manifest, verify_manifest

from ..engram import EngramTarget
from ..errors import CliError
from .registry import open_genome, told_plainly
from .steps import step


async def sign_model(genome_url: str, name: tuple[str, str], key: Path) -> dict[str, Any]:
    """Sign the files that are registered, as they are registered; return the model."""
    with told_plainly():
        async with open_genome(genome_url) as genome:
            model = await genome.get(*name)
            body = model.model_dump(mode="json")
            bundle = await asyncio.to_thread(sign_manifest, _files(body), _called(body), key)
            signed = await genome.update(model.family, model.version, {"signature": bundle})
    return signed.model_dump(mode="json")


async def check_model(
    genome_url: str,
    engram: EngramTarget,
    name: tuple[str, str],
    keys: Sequence[Path],
    *,
    read_files: bool,
) -> dict[str, Any]:
    """Return the model if a key vouches for it and, where asked, ENGRAM holds those very files.

    Without keys, no signature is asked for. Raises CliError.
    """
    with told_plainly():
        async with open_genome(genome_url) as genome:
            model = (await genome.get(*name)).model_dump(mode="json")
        if keys:
            await asyncio.to_thread(
                verify_manifest, _files(model), _called(model), model["signature"], keys
            )
    if read_files:
        await _read_all(engram, model)
    return model


async def _read_all(engram: EngramTarget, model: Mapping[str, Any]) -> None:
    from mnemos.engram.reading import find_damage

    artifact = model["artifact"]
    files = [(file["path"], file["size"], file["sha256"]) for file in model["files"]]
    with told_plainly(), step(f"Reading {_called(model)}") as shown:
        damaged = await find_damage(
            engram.open(), artifact["bucket"], artifact["path"], files, shown.advance_to
        )
    if damaged:
        raise CliError(
            f"{_called(model)} is damaged in ENGRAM: {'; '.join(damaged[:8])}.",
            code="artifact_corrupt",
            hint=f"push it again: mnemos models push FOLDER --name {_called(model)} --replace",
        )


def _files(model: Mapping[str, Any]) -> list[SignedFile]:
    return [SignedFile(file["path"], file["sha256"]) for file in model["files"]]


def _called(model: Mapping[str, Any]) -> str:
    return f"{model['family']}:{model['version']}"
