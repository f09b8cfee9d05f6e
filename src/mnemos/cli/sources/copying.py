"""Bringing a version from another GENOME and ENGRAM, with its digest and its signature."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

from mnemos.engram.copying import Place, copy_files
from mnemos.engram.manifest import ManifestFile
from mnemos.engram.publish import DIGEST_LETTERS

from ..engram import EngramTarget
from ..output import note
from .agreement import Published, check_free, complete, digest_of, register, tell_what_is_replaced
from .registry import GenomeClient, find_model, open_genome, told_plainly
from .steps import step


async def copy_model(
    name: tuple[str, str],
    new_name: tuple[str, str],
    source: tuple[str, EngramTarget],
    target: tuple[str, EngramTarget],
    cache: Path,
    *,
    replace: bool,
) -> Published:
    """Copy a version; `source` and `target` are the addresses of a GENOME and its ENGRAM.

    Every file is compared with its SHA-256 on the way. Raises CliError; nothing is then
    registered, and a second try goes on where this one stopped.
    """
    async with _source(source[0], target[0]) as theirs, open_genome(target[0]) as ours:
        with told_plainly():
            model = (await theirs.get(*name)).model_dump(mode="json")
        digest = digest_of(model)
        store = target[1].open()
        known = await find_model(ours, *new_name)
        if known is not None and not replace and digest_of(known) == digest:
            if await complete(store, known):
                return Published(known, fresh=False)
            await _copy(model, source[1], _place(store, known["artifact"]), cache)
            return Published(known, fresh=True)
        if known is not None:
            check_free(known, digest, replace=replace)
            tell_what_is_replaced(known, digest)
        body = _renamed(model, new_name, store.models_bucket)
        await _copy(model, source[1], _place(store, body["artifact"]), cache)
        return await register(ours, store, body, replace=replace)


def _renamed(model: dict[str, Any], name: tuple[str, str], bucket: str) -> dict[str, Any]:
    """The model as it is registered here: another place, and if it has another name, unsigned."""
    digest = digest_of(model).removeprefix("sha256:")
    path = f"{name[0]}/{name[1]}/{digest[:DIGEST_LETTERS]}"
    signature = model.get("signature")
    if signature and name != (model["family"], model["version"]):
        note("The signature stays behind: it vouches for the files under their old name.")
        signature = None
    return {
        **model,
        "family": name[0],
        "version": name[1],
        "artifact_path": path,
        "artifact": {**model["artifact"], "bucket": bucket, "path": path},
        "signature": signature,
    }


def _place(store: Any, artifact: dict[str, Any]) -> Place:
    return Place(store, artifact["bucket"], artifact["path"])


def _source(url: str, ours: str) -> GenomeClient:
    """A client of the GENOME that is read; ours has a token that is nobody else's business."""
    if url == ours:
        return open_genome(url)
    return GenomeClient(url, token=os.environ.get("MNEMOS_SOURCE_GENOME_TOKEN") or None)


async def _copy(model: dict[str, Any], source: EngramTarget, target: Place, cache: Path) -> None:
    files = [ManifestFile(file["path"], file["size"], file["sha256"]) for file in model["files"]]
    total = sum(file.size for file in files)
    done = 0
    loop = asyncio.get_running_loop()
    with told_plainly(), step(f"Copying {model['family']}:{model['version']}") as shown:

        def add(count: int) -> None:
            nonlocal done
            done += count
            shown.advance_to(done // 2, total)  # each byte comes, and goes

        def on_bytes(count: int) -> None:
            loop.call_soon_threadsafe(add, count)

        folder = cache / "copies" / digest_of(model).removeprefix("sha256:")[:DIGEST_LETTERS]
        await copy_files(_place(source.open(), model["artifact"]), target, files, folder, on_bytes)
