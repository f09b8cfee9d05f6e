"""Verbs that are sent to many things at once: `jobs cancel`, `workers pause` and their like."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import click

from .errors import CliError, ExitCode
from .output import Format, note, to_json

Send = Callable[[str], Awaitable[dict[str, Any]]]


async def steer(
    names: Sequence[str],
    send: Send,
    output: Format,
    *,
    key: str,
    sentence: Callable[[str, dict[str, Any]], str],
) -> ExitCode:
    """Send to each name and tell how it went; one that is refused does not hold up the others.

    JSON is one object whose `key` holds what the service answered. The exit status is that of
    the last refusal. Raises CliError when the only name is refused or the service is gone.
    """
    worst = ExitCode.OK
    answers: list[dict[str, Any]] = []
    for name in names:
        try:
            answer = await send(name)
        except CliError as error:
            if len(names) == 1 or error.exit_code is ExitCode.UNREACHABLE:
                raise
            worst = error.exit_code
            note(to_json(error.as_json()) if output is Format.JSON else f"{name}: {error.message}")
        else:
            answers.append(answer)
            if output is not Format.JSON:
                note(sentence(name, answer))
    if output is Format.JSON:
        click.echo(to_json({key: answers}, indent=2))
    return worst
