"""The flags that say how tokens are drawn; what is not given is the platform's choice."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import click

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
        type=click.Choice(["vllm", "pytorch", "transformers"]),
        help="What runs the model.  [default: the model's own]",
    ),
)


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
