"""What asks GENOME alone: `mnemos models list`, `versions`, `show`, `tag`, `untag`, `delete`."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..options import engram_options, genome_option, output_option
from ..output import Column, Format, ago, emit_record, emit_rows, note, print_fields, size

if TYPE_CHECKING:
    from mnemos.genome.answers import Model, VersionOrder

    from ..engram import EngramTarget
    from ..sources.registry import GenomeClient

MOST_FILES_SHOWN = 20
PAGE = 100


@click.command("list")
@click.option("--family", help="Only this family's.")
@click.option("--label", "--tag", "tag", help="Only those that were pushed with this label.")
@click.option("--version-tag", help="Only what a version tag, such as prod or latest, points to.")
@click.option("--format", help="Only those in this format, such as safetensors or gguf.")
@click.option("--runtime", help="Only those that this runtime runs unless a job says otherwise.")
@click.option("-q", "--search", "q", metavar="WORDS", help="Only those that say all these words.")
@output_option(listing=True)
@genome_option()
def list_models(genome_url: str, output: Format, **filters: str | None) -> None:
    """List the registered models, the newest first.

    \b
    Examples
      mnemos models list
      mnemos models list --version-tag prod
      mnemos models list --family smollm2 -q instruct -o json
    """
    from ..http import run_async

    emit_rows(
        run_async(_all_models(genome_url, filters)),
        [
            Column("model", _name),
            Column("version tags", lambda row: ", ".join(row["version_tags"])),
            Column("runtime", lambda row: row["runtime"]["type"]),
            Column("size", lambda row: size(row["artifact"]["size_bytes"]), right=True),
            Column("registered", lambda row: ago(row["created_at"])),
            Column("description", lambda row: row["description"]),
        ],
        output,
        name=_name,
        key="models",
        empty="No such model is registered."
        if any(filters.values())
        else "No model is registered; fetch one with: mnemos models pull smollm2:135m-instruct",
    )


async def _all_models(genome_url: str, filters: Mapping[str, str | None]) -> list[dict[str, Any]]:
    from ..sources.registry import open_genome, told_plainly

    found: list[dict[str, Any]] = []
    cursor: str | None = None
    with told_plainly():
        async with open_genome(genome_url) as genome:
            while True:
                page = await genome.list(limit=PAGE, cursor=cursor, **filters)
                found += [model.model_dump(mode="json") for model in page.models]
                cursor = page.next_cursor
                if not cursor:
                    return found


@click.command("versions")
@click.argument("family")
@click.option(
    "--sort",
    type=click.Choice(["newest", "semver"]),
    default="newest",
    show_default=True,
    help="The newest first, or the highest by semantic versioning.",
)
@output_option(listing=True)
@genome_option()
def list_versions(family: str, sort: VersionOrder, genome_url: str, output: Format) -> None:
    """List the versions of a family, and the version tags that point to them.

    \b
    Examples
      mnemos models versions smollm2
      mnemos models versions my-model --sort semver
    """
    from ..http import run_async

    emit_rows(
        run_async(_all_versions(genome_url, family, sort)),
        [
            Column("version", lambda row: row["version"]),
            Column("version tags", lambda row: ", ".join(row["version_tags"])),
            Column("size", lambda row: size(row["size_bytes"]), right=True),
            Column("registered", lambda row: ago(row["created_at"])),
            Column("revision", lambda row: row["revision"], right=True),
            Column("checksum", lambda row: row["checksum"]),
        ],
        output,
        name=lambda row: str(row["version"]),
        key="versions",
        empty=f"{family} has no version.",
    )


async def _all_versions(genome_url: str, family: str, sort: VersionOrder) -> list[dict[str, Any]]:
    from ..sources.registry import open_genome, told_plainly

    found: list[dict[str, Any]] = []
    cursor: str | None = None
    with told_plainly():
        async with open_genome(genome_url) as genome:
            while True:
                page = await genome.versions(family, sort=sort, cursor=cursor)
                found += page.model_dump(mode="json")["versions"]
                cursor = page.next_cursor
                if not cursor:
                    return found


@click.command("show")
@click.argument("name", metavar="FAMILY[:VERSION]")
@output_option()
@genome_option()
def show_model(name: str, genome_url: str, output: Format) -> None:
    """Show one model and its files; without a version, what `latest` points to.

    \b
    Examples
      mnemos models show smollm2
      mnemos models show smollm2:135m-instruct -o json
      mnemos models show my-model:prod
    """
    from ..http import run_async
    from ..names import split_model_name
    from ..sources.registry import open_genome, told_plainly

    family, version = split_model_name(name)

    async def fetch() -> tuple[dict[str, Any], list[str]]:
        with told_plainly():
            async with open_genome(genome_url) as genome:
                found = await genome.get(family, version)
                tags = (await genome.tags(family)).tags
        return found.model_dump(mode="json"), [
            tag.tag for tag in tags if tag.version == found.version
        ]

    model, tags = run_async(fetch())
    if output is Format.TABLE:
        _print_model(model, tags)
    else:
        emit_record(model, output)


def _print_model(model: Mapping[str, Any], version_tags: list[str]) -> None:
    artifact = model["artifact"]
    needs = model["requirements"]
    files = [f"{size(file['size']):>9}  {file['path']}" for file in model["files"]]
    if len(files) > MOST_FILES_SHOWN:
        more = len(files) - MOST_FILES_SHOWN
        files = [*files[:MOST_FILES_SHOWN], f"and {more} more"]
    base = model["metadata"].get("base_model")
    revised = [("revision", model["revision"])] if model["revision"] > 1 else []
    print_fields(
        [
            ("model", _name(model)),
            ("version tags", ", ".join(version_tags)),
            *([("base model", base)] if base else []),
            ("description", model["description"]),
            ("runtime", model["runtime"]["type"]),
            ("config", model["runtime"]["config"] or ""),
            ("format", artifact["format"]),
            ("size", size(artifact["size_bytes"])),
            ("checksum", artifact["checksum"]),
            ("signed", "yes" if model["signature"] else "no"),
            ("stored at", f"{artifact['bucket']}/{artifact['path']}"),
            ("needs", f"{needs['min_ram_gb']} GB RAM, {needs['min_gpu_memory_gb']} GB GPU memory"),
            ("capabilities", ", ".join(model["capabilities"])),
            ("labels", ", ".join(model["tags"])),
            ("registered", ago(model["created_at"])),
            *revised,
            ("files", "\n".join(files)),
        ]
    )


@click.command("tag")
@click.argument("name", metavar="FAMILY[:VERSION]")
@click.argument("tag")
@output_option()
@genome_option()
def tag_version(name: str, tag: str, genome_url: str, output: Format) -> None:
    """Let a version tag point to a version, also if it points to another one now.

    FAMILY:TAG then names that version wherever a model is named. The tag `latest` is the newest
    registered version by itself; set it, and it stays where it is until `untag`.

    \b
    Examples
      mnemos models tag my-model:1.1 prod
      mnemos models tag my-model:staging prod     what staging points to now
      mnemos models tag my-model:1.0 latest       until: mnemos models untag my-model:latest
    """
    from ..http import run_async
    from ..names import split_full_name, split_model_name
    from ..sources.registry import open_genome, told_plainly

    family, version = split_model_name(name)
    _, tag = split_full_name(f"{family}:{tag}")

    async def point() -> dict[str, Any]:
        with told_plainly():
            async with open_genome(genome_url) as genome:
                found = await genome.get(family, version)
                done = await genome.set_tag(family, tag, found.version)
        return done.model_dump(mode="json")

    done = run_async(point())
    if output is Format.TABLE:
        note(f"{family}:{tag} is {family}:{done['version']} now.")
    else:
        emit_record(done, output)


@click.command("untag")
@click.argument("name", metavar="FAMILY:TAG")
@output_option()
@genome_option()
def untag_version(name: str, genome_url: str, output: Format) -> None:
    """Remove a version tag; the version that it points to stays.

    \b
    Examples
      mnemos models untag my-model:prod
    """
    from ..http import run_async
    from ..names import split_full_name
    from ..sources.registry import open_genome, told_plainly

    family, tag = split_full_name(name)

    async def remove() -> None:
        with told_plainly():
            async with open_genome(genome_url) as genome:
                await genome.remove_tag(family, tag)

    run_async(remove())
    if output is Format.TABLE:
        note(f"{name} is no version tag any more.")
    else:
        emit_record({"family": family, "tag": tag}, output)


@click.command("delete")
@click.argument("name", metavar="FAMILY:VERSION")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@click.option("--force", is_flag=True, help="Remove the version tags that point to it as well.")
@click.option("--keep-files", is_flag=True, help="Only forget it; leave its files in ENGRAM.")
@output_option()
@genome_option()
@engram_options
def delete_model(
    name: str,
    yes: bool,
    force: bool,
    keep_files: bool,
    genome_url: str,
    output: Format,
    engram: EngramTarget,
    data_dir: Path,
) -> None:
    """Delete a version: from GENOME, and its files from ENGRAM.

    \b
    Examples
      mnemos models delete my-model:1.0
      mnemos models delete my-model:1.0 --yes --force
    """
    from ..http import run_async
    from ..names import split_full_name

    family, version = split_full_name(name)
    confirm(f"Delete {name}?", yes)
    model, kept_for = run_async(
        _delete(family, version, genome_url, None if keep_files else engram, force)
    )
    if kept_for:
        note(f"Its files stay: {kept_for} has them as well.")
    if output is Format.TABLE:
        note(f"{name} is deleted.")
    else:
        emit_record(model.model_dump(mode="json"), output)


async def _delete(
    family: str, version: str, genome_url: str, engram: EngramTarget | None, force: bool
) -> tuple[Model, str | None]:
    """GENOME forgets first: no worker may be sent to files that are going."""
    from mnemos.engram.errors import BucketNotFoundError

    from ..sources.registry import open_genome, told_plainly

    with told_plainly():
        async with open_genome(genome_url) as genome:
            model = await genome.get(family, version)
            await genome.delete(family, version, force=force)
            kept_for = await _sharer(genome, model)
        if engram is not None and kept_for is None:
            store = engram.open()
            with contextlib.suppress(BucketNotFoundError):  # then there are no files either
                await store.delete_prefix(model.artifact.bucket, _folder(model))
    return model, kept_for if engram is not None else None


async def _sharer(genome: GenomeClient, gone: Model) -> str | None:
    """Name another version whose files lie in the same folder, or above or below it."""
    cursor: str | None = None
    while True:
        page = await genome.list(limit=PAGE, cursor=cursor)
        for model in page.models:
            mine, theirs = f"{_folder(gone)}/", f"{model.artifact_path}/"
            overlap = mine.startswith(theirs) or theirs.startswith(mine)
            if overlap and model.artifact.bucket == gone.artifact.bucket:
                return f"{model.family}:{model.version}"
        cursor = page.next_cursor
        if not cursor:
            return None


def _folder(model: Model) -> str:
    """What goes with a version: its own folder whole, where files that were replaced lie too."""
    own = f"{model.family}/{model.version}"
    return own if model.artifact_path.startswith(f"{own}/") else model.artifact_path


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


_remove_model = copy.copy(delete_model)  # what it was called first
_remove_model.name, _remove_model.hidden = "rm", True

REGISTRY_COMMANDS = (
    list_models,
    list_versions,
    show_model,
    tag_version,
    untag_version,
    delete_model,
    _remove_model,
)
