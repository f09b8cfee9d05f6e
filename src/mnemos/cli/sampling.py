"""The flags that say how tokens are drawn; what is not given is the platform's choice."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click

from .errors import UsageFault

_OPTIONS = (
    click.option(
        "--max-tokens", type=click.IntRange(min=1), help="Longest answer.  [default: 512]"
    ),
    click.option("--temperature", type=click.FloatRange(0, 2), help="0: greedy.  [default: 0.7]"),
    click.option(
        "--top-p",
        type=click.FloatRange(0, 1, min_open=True),
        help="Nucleus sampling.  [default: 0.9]",
    ),
    click.option(
        "--seed",
        type=click.IntRange(min=0),
        help="The same seed gives the same answer.  [default: none]",
    ),
    click.option("--stop", multiple=True, help="End an answer at this text; may be repeated."),
    click.option("--system", help="The system message.  [default: the model's]"),
    click.option(
        "--runtime",
        type=click.Choice(["vllm", "pytorch", "transformers", "echo"]),
        help="What runs the model; echo runs none, it measures the path alone.  "
        "[default: the model's own]",
    ),
)


_ANSWER_OPTIONS = (
    click.option(
        "--adapter",
        metavar="FAMILY:VERSION",
        help="A LoRA adapter that the model runs with.  [default: none]",
    ),
    click.option(
        "--json-schema",
        "schema_file",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        metavar="FILE",
        help="The answer is JSON that this schema allows.  [default: any text]",
    ),
    click.option("--regex", help="The answer matches this whole.  [default: any text]"),
    click.option("--choice", multiple=True, help="The answer is one of these; repeat it."),
    click.option(
        "-n", "--answers", type=click.IntRange(1, 16), help="How many answers.  [default: 1]"
    ),
    click.option(
        "--logprobs",
        type=click.IntRange(0, 20),
        metavar="N",
        help="Tell tokens' log-probabilities, and N alternatives.  [default: neither]",
    ),
    click.option("--target", help="Score this answer instead of drawing one.  [default: draw one]"),
)


def answer_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the flags that say what an answer may be, and what is told of it."""
    for option in reversed(_ANSWER_OPTIONS):
        command = option(command)
    return command


def answer_parameters(given: Mapping[str, Any]) -> dict[str, Any]:
    """The API's `parameters` for those flags. Raises UsageFault for a schema that is no JSON."""
    words = {"answers": "n", "adapter": "adapter", "regex": "regex", "logprobs": "logprobs"}
    words["target"] = "target"
    parameters = {name: given[flag] for flag, name in words.items() if given[flag] is not None}
    if given["choice"]:
        parameters["choice"] = list(given["choice"])
    if given["schema_file"] is not None:
        parameters["json_schema"] = _read_schema(given["schema_file"])
    return parameters


def _read_schema(file: Path) -> dict[str, Any]:
    try:
        schema = json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:
        raise UsageFault(f"{file} is not JSON: {error}.") from error
    if not isinstance(schema, dict):
        raise UsageFault(f"{file} is no JSON Schema: it must hold an object.")
    return schema


def sampling_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the flags to a command, in one order everywhere."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def sampling_parameters(given: Mapping[str, Any]) -> dict[str, Any]:
    """The API's `parameters`, only with what was really given."""
    names = ("max_tokens", "temperature", "top_p", "seed")
    parameters = {name: given[name] for name in names if given.get(name) is not None}
    if given.get("stop"):
        parameters["stop"] = list(given["stop"])
    return parameters
