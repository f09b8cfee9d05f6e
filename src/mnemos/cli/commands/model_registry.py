"""`mnemos models list`, `versions`, `show` and `rm`: what GENOME knows."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..options import engram_options, genome_option, output_option
from ..output import Column, Format, ago, emit_record, emit_rows, note, print_fields, size

if TYPE_CHECKING:
    from ..engram import EngramTarget

MOST_FILES_SHOWN = 20


@click.command("list")
@click.option("--family", help="Only this family's.")
@click.option("--tag", help="Only those with this tag.")
@output_option(listing=True)
@genome_option()
def list_models(genome_url: str, output: Format, **filters: str | None) -> None:
    """List the registered models, the newest first.

    \b
    Examples
      mnemos models list
      mnemos models list --family smollm2 -o json
    """
    from ..http import run_async

    emit_rows(
        run_async(_all_models(genome_url, filters)),
        [
            Column("model", _name),
            Column("runtime", lambda row: row["runtime"]["type"]),
            Column("size", lambda row: size(row["artifact"]["size_bytes"]), right=True),
            Column("registered", lambda row: ago(row["created_at"])),
            Column("description", lambda row: row["description"]),
        ],
        output,
        name=_name,
        key="models",
        empty="No model is registered; fetch one with: mnemos models pull smollm2:135m-instruct",
    )


async def _all_models(genome_url: str, filters: Mapping[str, str | None]) -> list[dict[str, Any]]:
    from ..sources.registry import GenomeClient, told_plainly

    found: list[dict[str, Any]] = []
    cursor: str | None = None
    with told_plainly():
        async with GenomeClient(genome_url) as genome:
            while True:
                page = await genome.list(
                    limit=100, cursor=cursor, family=filters["family"], tag=filters["tag"]
                )
                found += [model.model_dump(mode="json") for model in page.models]
                cursor = page.next_cursor
                if not cursor:
                    return found


@click.command("versions")
@click.argument("family")
@output_option(listing=True)
@genome_option()
def list_versions(family: str, genome_url: str, output: Format) -> None:
    """List the versions of a family, the newest first.

    \b
    Examples
      mnemos models versions smollm2
    """
    from ..http import run_async
    from ..sources.registry import GenomeClient, told_plainly

    async def fetch() -> list[dict[str, Any]]:
        with told_plainly():
            async with GenomeClient(genome_url) as genome:
                found = await genome.versions(family)
        listed: list[dict[str, Any]] = found.model_dump(mode="json")["versions"]
        return listed

    emit_rows(
        run_async(fetch()),
        [
            Column("version", lambda row: row["version"]),
            Column("size", lambda row: size(row["size_bytes"]), right=True),
            Column("registered", lambda row: ago(row["created_at"])),
        ],
        output,
        name=lambda row: str(row["version"]),
        key="versions",
        empty=f"{family} has no version.",
    )


@click.command("show")
@click.argument("name", metavar="FAMILY[:VERSION]")
@output_option()
@genome_option()
def show_model(name: str, genome_url: str, output: Format) -> None:
    """Show one model and its files; without a version, the newest.

    \b
    Examples
      mnemos models show smollm2
      mnemos models show smollm2:135m-instruct -o json
    """
    from ..http import run_async
    from ..names import split_model_name
    from ..sources.registry import GenomeClient, told_plainly

    family, version = split_model_name(name)

    async def fetch() -> dict[str, Any]:
        with told_plainly():
            async with GenomeClient(genome_url) as genome:
                found = await genome.get(family, version)
        return found.model_dump(mode="json")

    model = run_async(fetch())
    if output is Format.TABLE:
        _print_model(model)
    else:
        emit_record(model, output)


def _print_model(model: Mapping[str, Any]) -> None:
    artifact = model["artifact"]
    needs = model["requirements"]
    files = [f"{size(file['size']):>9}  {file['path']}" for file in model["files"]]
    if len(files) > MOST_FILES_SHOWN:
        more = len(files) - MOST_FILES_SHOWN
        files = [*files[:MOST_FILES_SHOWN], f"and {more} more"]
    base = model["metadata"].get("base_model")
    print_fields(
        [
            ("model", _name(model)),
            *([("base model", base)] if base else []),
            ("description", model["description"]),
            ("runtime", model["runtime"]["type"]),
            ("config", model["runtime"]["config"] or ""),
            ("format", artifact["format"]),
            ("size", size(artifact["size_bytes"])),
            ("checksum", artifact["checksum"]),
            ("stored at", f"{artifact['bucket']}/{artifact['path']}"),
            ("needs", f"{needs['min_ram_gb']} GB RAM, {needs['min_gpu_memory_gb']} GB GPU memory"),
            ("capabilities", ", ".join(model["capabilities"])),
            ("tags", ", ".join(model["tags"])),
            ("registered", ago(model["created_at"])),
            ("files", "\n".join(files)),
        ]
    )


@click.command("rm")
@click.argument("name", metavar="FAMILY:VERSION")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@click.option("--keep-files", is_flag=True, help="Only forget it; leave its files in ENGRAM.")
@output_option()
@genome_option()
@engram_options
def remove_model(
    name: str,
    yes: bool,
    keep_files: bool,
    genome_url: str,
    output: Format,
    engram: EngramTarget,
    data_dir: Path,
) -> None:
    """Remove a version: from GENOME, and its files from ENGRAM.

    \b
    Examples
      mnemos models rm my-model:1.0
      mnemos models rm my-model:1.0 --yes
    """
    from ..http import run_async
    from ..names import split_full_name

    family, version = split_full_name(name)
    confirm(f"Remove {name}?", yes)
    removed = run_async(_remove(family, version, genome_url, None if keep_files else engram))
    if output is Format.TABLE:
        note(f"{name} is removed.")
    else:
        emit_record(removed, output)


async def _remove(
    family: str, version: str, genome_url: str, engram: EngramTarget | None
) -> dict[str, Any]:
    """GENOME forgets first: no worker may be sent to files that are going."""
    from ..sources.registry import GenomeClient, told_plainly

    with told_plainly():
        async with GenomeClient(genome_url) as genome:
            model = await genome.get(family, version)
            await genome.delete(family, version)
        if engram is not None:
            store = engram.open()
            await store.delete_prefix(model.artifact.bucket, model.artifact_path)
    return model.model_dump(mode="json")


def confirm(question: str, yes: bool) -> None:
    """Ask on a terminal; elsewhere fail and name the flag."""
    import sys

    from ..errors import UsageFault

    if yes:
        return
    if not sys.stdin.isatty():
        raise UsageFault("This cannot be undone and nobody can be asked.", hint="use --yes")
    click.confirm(question, abort=True, err=True)


def _name(row: Mapping[str, Any]) -> str:
    return f"{row['family']}:{row['version']}"


REGISTRY_COMMANDS = (list_models, list_versions, show_model, remove_model)
