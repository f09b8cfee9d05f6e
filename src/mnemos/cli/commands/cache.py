"""`mnemos cache`: the models' files that workers keep on this machine."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import NotFound
from ..lazy import SuggestingGroup
from ..options import data_dir_option, engram_options, genome_option, output_option
from ..output import Column, Format, ago, emit_record, emit_rows, note, size
from ..sizes import size_option

if TYPE_CHECKING:
    from mnemos.engram.cache import ArtifactCache, Damage

    from ..engram import EngramTarget

_GIB = 1024**3


@click.group("cache", cls=SuggestingGroup)
def cache() -> None:
    """See, check and tidy the models kept on this machine.

    \b
    Examples
      mnemos cache list
      mnemos cache verify --mend
      mnemos cache prune --to 20GB
    """


def cache_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Which cache, as one argument; expects `data_dir` among the others and takes it."""

    @click.option(
        "--cache-dir",
        type=click.Path(file_okay=False, path_type=Path),
        envvar="NEURON_MODEL_CACHE_DIR",
        show_envvar=True,
        help="The workers' model cache.  [default: that of `mnemos up`, in the data folder]",
    )
    @wraps(command)
    def with_cache(cache_dir: Path | None, data_dir: Path, **arguments: Any) -> Any:
        folder = (cache_dir or data_dir / "workers" / "models").expanduser().absolute()
        return command(cached=_open(folder), **arguments)

    return with_cache


def _open(folder: Path) -> ArtifactCache:
    """The cache with the budget and the pinned models of this shell's workers."""
    from mnemos.engram.cache import ArtifactCache

    budget = os.environ.get("NEURON_CACHE_BUDGET_GB")
    pinned = os.environ.get("NEURON_PINNED_MODELS", "")
    return ArtifactCache(
        folder,
        int(float(budget) * _GIB) if budget else None,
        [name.strip() for name in pinned.split(",") if name.strip()],
    )


@cache.command("list")
@output_option(listing=True)
@data_dir_option()
@cache_options
def list_models(cached: ArtifactCache, output: Format) -> None:
    """List the models that lie here, the most recently used first.

    FREES is what removing a model alone would free: files that versions share lie here once.

    \b
    Examples
      mnemos cache list
      mnemos cache list --cache-dir /tmp/neuron/models -o json
    """
    from ..sources.registry import told_plainly

    with told_plainly():
        entries = cached.entries()
        usage = cached.usage() if entries else None
    rows = [_row(entry) for entry in sorted(entries, key=lambda each: -each.last_used)]
    emit_rows(
        rows,
        [
            Column("model", lambda row: row["model"]),
            Column("state", lambda row: row["state"]),
            Column("size", lambda row: size(row["size_bytes"]), right=True),
            Column("frees", lambda row: size(row["freed_bytes"]), right=True),
            Column("last used", lambda row: ago(row["last_used"])),
            Column("digest", lambda row: row["digest"].removeprefix("sha256:")[:12]),
        ],
        output,
        name=lambda row: str(row["model"]),
        key="models",
        empty=f"No model lies at {cached.root}.",
    )
    if usage is not None and output is Format.TABLE:
        note(f"{size(usage.held_bytes)} of at most {size(usage.limit_bytes)} at {cached.root}")


def _row(entry: Any) -> dict[str, Any]:
    from datetime import UTC, datetime

    state = "in use" if entry.in_use else "ok"
    return {
        "model": f"{entry.family}:{entry.version}",
        "state": state if entry.whole else "damaged",
        "in_use": entry.in_use,
        "digest": entry.digest,
        "files": entry.files,
        "size_bytes": entry.size_bytes,
        "freed_bytes": entry.freed_bytes,
        "last_used": datetime.fromtimestamp(entry.last_used, UTC).isoformat(),
    }


@cache.command("prune")
@click.option(
    "--to",
    "to_bytes",
    metavar="SIZE",
    callback=size_option,
    help="How much may stay, such as 20GB.  [default: NEURON_CACHE_BUDGET_GB]",
)
@click.option("--all", "everything", is_flag=True, help="Remove all that is not in use.")
@click.option("--keep", multiple=True, metavar="FAMILY:VERSION", help="Spare it; repeatable.")
@click.option("--dry-run", is_flag=True, help="Only say what would go.")
@output_option()
@data_dir_option()
@cache_options
def prune(
    cached: ArtifactCache,
    to_bytes: int | None,
    everything: bool,
    keep: Sequence[str],
    dry_run: bool,
    output: Format,
) -> None:
    """Remove what was used longest ago, and what crashed workers left.

    Without --to and --all, down to NEURON_CACHE_BUDGET_GB. What a worker of this machine uses, or
    NEURON_PINNED_MODELS names, stays.

    \b
    Examples
      mnemos cache prune
      mnemos cache prune --to 20GB --keep smollm2:135m-instruct
      mnemos cache prune --all --dry-run
    """
    from ..errors import UsageFault
    from ..names import split_full_name
    from ..sources.registry import told_plainly

    if everything and to_bytes is not None:
        raise UsageFault("--all and --to exclude one another.")
    for name in keep:
        split_full_name(name)
    with told_plainly():
        removed = cached.prune(0 if everything else to_bytes, keep, dry_run=dry_run)
    if output is Format.JSON:
        told = {"models": removed.models, "freed_bytes": removed.freed_bytes, "dry_run": dry_run}
        emit_record(told, output)
        return
    for name in removed.models:
        click.echo(name)
    would = "would go, and free" if dry_run else "gone:"
    what = f"{len(removed.models)} model{'' if len(removed.models) == 1 else 's'}"
    note(f"{what} {would} {size(removed.freed_bytes)}{'' if dry_run else ' freed'}.")


@cache.command("verify")
@click.argument("name", metavar="[FAMILY:VERSION]", required=False)
@click.option("--mend", is_flag=True, help="Fetch damaged files anew.")
@output_option()
@genome_option()
@engram_options
@cache_options
def verify(
    cached: ArtifactCache,
    name: str | None,
    mend: bool,
    output: Format,
    genome_url: str,
    engram: EngramTarget,
) -> None:
    """Read the files again and name the damaged ones; exit status 1 if any is left.

    Without a name, all models. --mend takes damaged files out and brings them anew from ENGRAM,
    as GENOME describes them; nothing else is fetched.

    \b
    Examples
      mnemos cache verify
      mnemos cache verify smollm2:135m-instruct --mend
    """
    from ..errors import CliError
    from ..http import run_async
    from ..mending import mend_models

    checked, damages = _find_damages(cached, name)
    mended = run_async(mend_models(cached, damages, genome_url, engram)) if mend else frozenset()
    left = [damage for damage in damages if damage.model not in mended]
    rows = [
        {
            "model": damage.model,
            "path": damage.path,
            "problem": damage.problem,
            "mended": damage.model in mended,
        }
        for damage in damages
    ]
    if output is Format.JSON:
        emit_record({"models": checked, "damaged": rows}, output)
    else:
        for row in rows:
            after = ", mended" if row["mended"] else ""
            click.echo(f"{row['model']}  {row['path']}: {row['problem']}{after}")
    if left:
        hint = None if mend else "mend them with: mnemos cache verify --mend"
        raise CliError(f"{_files(len(left))} damaged.", code="artifact_corrupt", hint=hint)
    models = f"{len(checked)} model{'' if len(checked) == 1 else 's'}"
    note(f"{models} verified{', all is right' if not damages else ' and mended'}.")


def _find_damages(cached: ArtifactCache, name: str | None) -> tuple[list[str], list[Damage]]:
    from ..names import split_full_name
    from ..sources.registry import told_plainly

    with told_plainly():
        here = [f"{entry.family}:{entry.version}" for entry in cached.entries()]
        if name is not None:
            split_full_name(name)
            if name not in here:
                raise NotFound(f"{name} does not lie at {cached.root}.", code="model_not_cached")
            here = [name]
        damages = [damage for each in here for damage in cached.verify(*split_full_name(each))]
    return here, damages


def _files(count: int) -> str:
    return "1 file is" if count == 1 else f"{count} files are"
