"""The `mnemos` command, as its own help has it."""

from __future__ import annotations

import inspect
from collections.abc import Iterator

import click

from mnemos.cli.main import EPILOG, cli

from .markdown import code, head, table

_TEXT = """
`mnemos COMMAND --help` says the same. With `-o json` every command that shows something prints it
for programs; what is said on the way goes to the error output.
"""


def page() -> str:
    """Return the page."""
    parts = [head("Commands", _TEXT.strip()), f"\n```text\n{_plain(EPILOG)}\n```\n"]
    root = click.Context(cli, info_name="mnemos")
    for name in cli.list_commands(root):
        command = cli.get_command(root, name)
        assert command is not None
        parts += _command(click.Context(command, info_name=name, parent=root), 2)
    return "".join(parts)


def _command(context: click.Context, depth: int) -> Iterator[str]:
    command = context.command
    yield f"\n{'#' * depth} {context.command_path}\n\n{_prose(command.help or '')}\n"
    if not isinstance(command, click.Group):
        pieces = command.collect_usage_pieces(context)
        yield f"\n```text\n{context.command_path} {' '.join(pieces)}\n```\n"
    rows = [row for parameter in command.params if (row := _option(parameter, context))]
    if rows:
        yield "\n" + table(("option", ""), rows)
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            inner = command.get_command(context, name)
            assert inner is not None
            yield from _command(click.Context(inner, info_name=name, parent=context), depth + 1)


def _option(parameter: click.Parameter, context: click.Context) -> tuple[str, str] | None:
    record = parameter.get_help_record(context)
    if record is None:
        return None
    names, text = record
    return code(names), text


def _plain(text: str) -> str:
    """Take out click's marks for paragraphs that are not to be wrapped."""
    return "\n".join(line for line in text.strip().splitlines() if line.strip() != "\b")


def _prose(text: str) -> str:
    """Return a help text as Markdown; what is not to be wrapped becomes a block."""
    paragraphs = inspect.cleandoc(text).split("\n\n")
    return "\n\n".join(
        f"```text\n{_plain(one)}\n```" if one.lstrip().startswith("\b") else one
        for one in paragraphs
    )
