"""`mnemos models`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..lazy import SuggestingGroup
from ..options import engram_options, genome_option, output_option
from ..output import Column, Format, emit_record, note, print_table, size
from .model_copies import COPY_COMMANDS, tell_published
from .model_registry import REGISTRY_COMMANDS
from .model_trust import TRUST_COMMANDS

if TYPE_CHECKING:
    from mnemos.engram.publish import Prepared

    from ..engram import EngramTarget


sign_option = click.option(
    "--sign",
    "signing_key",
    metavar="KEY.pem",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Sign it with this private key (elliptic-curve, PEM).  [default: none]",
)


@click.group("models", cls=SuggestingGroup)
def models() -> None:
    """Fetch, publish, copy, sign and list models.

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
@click.option(
    "--include", multiple=True, metavar="GLOB", help="More of a hub model's files; repeatable."
)
@click.option("--replace", is_flag=True, help="Take the place of a version with other files.")
@sign_option
@output_option()
@genome_option()
@engram_options
def pull_model(
    name: str,
    new_name: str | None,
    include: tuple[str, ...],
    replace: bool,
    signing_key: Path | None,
    genome_url: str,
    engram: EngramTarget,
    data_dir: Path,
    output: Format,
) -> None:
    """Fetch a model and publish it here: a name of the catalogue, or hf://org/name[@revision].

    A model that is already here is left alone. A hub model brings its safetensors, never its
    pickles; HF_ENDPOINT, HF_TOKEN and the hub's other variables count.

    \b
    Examples
      mnemos models pull smollm2:135m-instruct
      mnemos models pull hf://HuggingFaceTB/SmolLM2-360M-Instruct
      mnemos models pull hf://org/name@v1.0 --name mine:1.0
      mnemos models pull hf://org/name-GGUF --include '*Q4_K_M.gguf'
    """
    from .. import catalogue, hub
    from ..http import run_async
    from ..names import split_full_name
    from ..sources.publish import Publisher, PushOptions

    publisher = Publisher(genome_url, engram, data_dir / "cache")
    options = PushOptions(replace=replace, signing_key=signing_key, include=include)
    if name.startswith(hub.SCHEME):
        chosen = split_full_name(new_name) if new_name else None
        pulling = publisher.pull_hub(hub.parse_reference(name), chosen, options)
    else:
        pulling = publisher.pull_catalogue(catalogue.find(name), options)
    tell_published(run_async(pulling), output)


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
@click.option(
    "--allow-pickle",
    is_flag=True,
    help="Let pickles in that call nothing but what is known to be harmless.",
)
@sign_option
@click.option("--dry-run", is_flag=True, help="Check and hash only; print what would be pushed.")
@output_option()
@genome_option()
@engram_options
def push_model(
    folder: Path,
    name: str,
    runtime: str | None,
    description: str,
    tags: tuple[str, ...],
    dry_run: bool,
    genome_url: str,
    engram: EngramTarget,
    data_dir: Path,
    output: Format,
    **options: Any,
) -> None:
    """Publish a folder as a version of a model.

    A folder holds a model's config, tokenizer and safetensors, or one GGUF file, or a custom
    model with its signature.json, or a LoRA adapter (adapter_config.json and
    adapter_model.safetensors), which jobs then name with --adapter. Hidden files are left out;
    pickles are refused. A version that exists with other files is refused without --replace.

    \b
    Examples
      mnemos models push ./my-model --name my-model:1.0
      mnemos models push ./my-model --name my-model:1.0 --dry-run
      mnemos models push ./my-lora --name my-style:1.0 --sign key.pem
      mnemos models push ./my-model --name my-model:1.0 --replace --description "With fixes"
    """
    from mnemos.engram.publish import Description

    from ..http import run_async
    from ..names import split_full_name
    from ..sources.publish import Publisher, PushOptions, prepare_folder

    full_name = split_full_name(name)
    chosen = PushOptions(**options)
    if dry_run:
        _tell_manifest(run_async(prepare_folder(folder, chosen)), name, output)
        return
    publisher = Publisher(genome_url, engram, data_dir / "cache")
    told = Description(description=description, runtime=runtime, tags=tags)
    tell_published(run_async(publisher.push(folder, full_name, told, chosen)), output)


def _tell_manifest(prepared: Prepared, name: str, output: Format) -> None:
    manifest = prepared.manifest
    files = [
        {"path": file.path, "size": file.size, "sha256": file.sha256} for file in manifest.files
    ]
    if output is Format.JSON:
        told = {
            "format": manifest.format,
            "size_bytes": manifest.size_bytes,
            "checksum": manifest.checksum,
            "files": files,
            "left_out": list(prepared.scan.left_out),
            "pickles": prepared.pickles,
        }
        emit_record(told, output)
        return
    print_table(
        files,
        [
            Column("path", lambda row: row["path"]),
            Column("size", lambda row: size(row["size"]), right=True),
            Column("sha256", lambda row: row["sha256"]),
        ],
    )
    note(
        f"{name} would have {len(files)} files, {size(manifest.size_bytes)}, format "
        f"{manifest.format}, {manifest.checksum}; nothing was uploaded."
    )


for _command in (*COPY_COMMANDS, *TRUST_COMMANDS, *REGISTRY_COMMANDS):
    models.add_command(_command)
