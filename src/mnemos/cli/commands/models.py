"""`mnemos models`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..lazy import SuggestingGroup
from ..options import engram_options, genome_option, output_option
from ..output import Column, Format, ago, emit_record, emit_rows, note, print_fields, size

if TYPE_CHECKING:
    from ..engram import EngramTarget

MOST_FILES_SHOWN = 20


@click.group("models", cls=SuggestingGroup)
def models() -> None:
    """Fetch, publish and list models.

    \b
    Examples
      mnemos models pull smollm2:135m-instruct
      mnemos models push ./my-model --name my-model:1.0
      mnemos models list
    """


@models.command("pull")
@click.argument("name")
@click.option(
    "--name",
    "new_name",
    metavar="FAMILY:VERSION",
    help="What a hub model is called here.  [default: from its repository and revision]",
)
@output_option()
@genome_option()
@engram_options
def pull_model(
    name: str,
    new_name: str | None,
    genome_url: str,
    engram: EngramTarget,
    data_dir: Path,
    output: Format,
) -> None:
    """Fetch a model and publish it here: a name of the catalogue, or hf://org/name[@revision].

    A model that is already here is left alone.

    \b
    Examples
      mnemos models pull smollm2:135m-instruct
      mnemos models pull hf://HuggingFaceTB/SmolLM2-360M-Instruct
      mnemos models pull hf://org/name@v1.0 --name mine:1.0
    """
    from .. import catalogue, hub
    from ..http import run_async
    from ..names import split_full_name
    from ..sources.publish import Published, Publisher

    async def pull() -> Published:
        publisher = Publisher(genome_url, engram, data_dir / "cache")
        if name.startswith(hub.SCHEME):
            reference = hub.parse_reference(name)
            chosen = split_full_name(new_name) if new_name else None
            return await publisher.pull_hub(reference, chosen)
        return await publisher.pull_catalogue(catalogue.find(name))

    _tell(run_async(pull()), output)


@models.command("push")
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--name", required=True, metavar="FAMILY:VERSION", help="What it is called.")
@click.option(
    "--runtime",
    type=click.Choice(["transformers", "vllm", "pytorch"]),
    help="What runs it unless a job says otherwise.  [default: pytorch for a folder with a "
    "signature.json, else transformers]",
)
@click.option("--description", default="", help="One sentence for people.  [default: none]")
@click.option("--tag", "tags", multiple=True, help="May be repeated.")
@click.option(
    "--exclude", multiple=True, metavar="GLOB", help="Leave files out, such as '*.bin'; repeatable."
)
@click.option("--replace", is_flag=True, help="Take the place of a version with other files.")
@output_option()
@genome_option()
@engram_options
def push_model(
    folder: Path,
    name: str,
    runtime: str | None,
    description: str,
    tags: tuple[str, ...],
    exclude: tuple[str, ...],
    replace: bool,
    genome_url: str,
    engram: EngramTarget,
    data_dir: Path,
    output: Format,
) -> None:
    """Publish a folder as a version of a model.

    A folder holds a model's config, tokenizer and safetensors, or one GGUF file, or a custom
    model with its signature.json, or a LoRA adapter (adapter_config.json and
    adapter_model.safetensors), which jobs then name with --adapter. Pickles are refused.

    \b
    Examples
      mnemos models push ./my-model --name my-model:1.0
      mnemos models push ./my-lora --name my-style:1.0
      mnemos models push ./my-model --name my-model:1.0 --replace --description "With fixes"
    """
    from mnemos.engram.publish import Description

    from ..http import run_async
    from ..names import split_full_name
    from ..sources.publish import Publisher

    publisher = Publisher(genome_url, engram, data_dir / "cache")
    told = Description(description=description, runtime=runtime, tags=tags)
    _tell(
        run_async(
            publisher.push(folder, split_full_name(name), told, replace=replace, exclude=exclude)
        ),
        output,
    )


def _tell(published: Any, output: Format) -> None:
    model = published.model
    name = f"{model['family']}:{model['version']}"
    if output is Format.JSON:
        emit_record(model, output)
    elif published.fresh:
        note(f"{name} is ready ({size(model['artifact']['size_bytes'])}).")
    else:
        note(f"{name} is here already.")


@models.command("list")
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


@models.command("versions")
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


@models.command("show")
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


@models.command("rm")
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
