"""`mnemos models copy` and `prune`: what lies in which ENGRAM."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..durations import seconds_option
from ..options import engram_options, genome_option, output_option
from ..output import Column, Format, ago, emit_record, emit_rows, note, print_table, size

if TYPE_CHECKING:
    from ..engram import EngramTarget

LONGEST_SECONDS = 365 * 86_400.0
MOST_SHOWN = 20


@click.command("copy")
@click.argument("name", metavar="FAMILY:VERSION")
@click.option(
    "--from-genome", required=True, metavar="URL", help="The GENOME that knows it, http://…"
)
@click.option(
    "--from-engram",
    metavar="URL",
    help="The ENGRAM that has its files, file:///dir or s3://.  [default: this one]",
)
@click.option(
    "--from-engram-endpoint",
    metavar="HOST:PORT",
    help="That ENGRAM's S3 server; its keys are MNEMOS_FROM_ENGRAM_ACCESS_KEY and _SECRET_KEY.  "
    "[default: none]",
)
@click.option(
    "--name",
    "new_name",
    metavar="FAMILY:VERSION",
    help="What it is called here.  [default: the same]",
)
@click.option("--replace", is_flag=True, help="Take the place of a version with other files.")
@output_option()
@genome_option()
@engram_options
def copy_model_command(
    name: str,
    from_genome: str,
    from_engram: str | None,
    from_engram_endpoint: str | None,
    new_name: str | None,
    replace: bool,
    genome_url: str,
    engram: EngramTarget,
    data_dir: Path,
    output: Format,
) -> None:
    """Copy a version from another GENOME and ENGRAM: the same files, digest and signature.

    Every file is checked on the way. A copy that broke goes on where it stopped.

    \b
    Examples
      mnemos models copy my-model:1.0 --from-genome http://other:8081 --from-engram file:///nfs
    """
    from ..engram import EngramTarget
    from ..http import run_async
    from ..names import split_full_name
    from ..sources.copying import copy_model

    full_name = split_full_name(name)
    source = engram
    if from_engram or from_engram_endpoint:
        source = EngramTarget(from_engram or "s3://", from_engram_endpoint, "MNEMOS_FROM_ENGRAM")
    copying = copy_model(
        full_name,
        split_full_name(new_name) if new_name else full_name,
        (from_genome, source),
        (genome_url, engram),
        data_dir / "cache",
        replace=replace,
    )
    tell_published(run_async(copying), output)


@click.command("prune")
@click.option(
    "--older-than",
    "older_than_seconds",
    default="24h",
    show_default=True,
    metavar="DURATION",
    callback=seconds_option(LONGEST_SECONDS),
    help="Leave alone what is younger, and versions that were replaced since: a push may still be "
    "under way, or a worker still be reading.",
)
@click.option(
    "--unregistered",
    is_flag=True,
    help="Also the objects of versions that this GENOME does not know at all. Not where another "
    "GENOME uses the same ENGRAM!",
)
@click.option("--dry-run", is_flag=True, help="Only say what would go.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@output_option(listing=True)
@genome_option()
@engram_options
def prune_models(
    older_than_seconds: float,
    unregistered: bool,
    dry_run: bool,
    yes: bool,
    genome_url: str,
    engram: EngramTarget,
    data_dir: Path,
    output: Format,
) -> None:
    """Remove from ENGRAM what broken pushes and replaced versions left there.

    Files that a registered version names are never touched.

    \b
    Examples
      mnemos models prune --dry-run
      mnemos models prune --older-than 7d --yes
    """
    from datetime import timedelta

    from ..http import run_async
    from ..sources.pruning import look_for_strays, remove_strays
    from .model_registry import confirm

    older_than = timedelta(seconds=older_than_seconds)
    looking = look_for_strays(genome_url, engram, older_than, unregistered=unregistered)
    strays = run_async(looking)
    count, total = len(strays.objects), size(strays.size_bytes)
    rows = [
        {"key": info.key, "size": info.size, "last_modified": info.last_modified.isoformat()}
        for info in strays.objects
    ]
    if output is not Format.TABLE:
        _list_strays(rows, output)
    elif rows:
        _show_strays(rows)
    if dry_run:
        note(f"{count} objects that nothing names, {total}; nothing was removed.")
        return
    if rows:
        confirm(f"Remove {count} objects, {total}?", yes)
    run_async(remove_strays(strays))
    note(f"{count} objects are removed, {total}.")


def _list_strays(rows: list[dict[str, Any]], output: Format) -> None:
    emit_rows(rows, [], output, name=lambda row: str(row["key"]), key="objects", empty="")


def _show_strays(rows: list[dict[str, Any]]) -> None:
    print_table(
        rows[:MOST_SHOWN],
        [
            Column("object", lambda row: row["key"]),
            Column("size", lambda row: size(row["size"]), right=True),
            Column("stored", lambda row: ago(row["last_modified"])),
        ],
    )
    if len(rows) > MOST_SHOWN:
        note(f"and {len(rows) - MOST_SHOWN} more")


def tell_published(published: Any, output: Format) -> None:
    """Say that a model is ready, or was."""
    model = published.model
    name = f"{model['family']}:{model['version']}"
    if output is Format.JSON:
        emit_record(model, output)
    elif published.fresh:
        signed = ", signed" if model.get("signature") else ""
        note(f"{name} is ready ({size(model['artifact']['size_bytes'])}{signed}).")
    else:
        note(f"{name} is here already.")


COPY_COMMANDS = (copy_model_command, prune_models)
