"""`mnemos models`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..lazy import SuggestingGroup
from ..options import engram_options, genome_option, output_option
from ..output import Format, emit_record, note, size
from .model_registry import REGISTRY_COMMANDS

if TYPE_CHECKING:
    from ..engram import EngramTarget


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


for _command in REGISTRY_COMMANDS:
    models.add_command(_command)
