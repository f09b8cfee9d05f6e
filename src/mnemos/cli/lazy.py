"""A command group that imports a command only when it is called."""

from __future__ import annotations

import difflib
import importlib
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, NamedTuple

import click

from .errors import CliError, ExitCode, NotUnicode

Resolved = tuple[str | None, click.Command | None, list[str]]


class Entry(NamedTuple):
    """Where a command lives, and the line that `--help` shows without importing it."""

    module: str
    attribute: str
    summary: str


class LazyGroup(click.Group):
    """A group whose commands are named by `entries` and loaded on demand.

    `main` never shows a traceback (unless MNEMOS_DEBUG is set): errors become one sentence on
    stderr, or JSON when `-o json` or `-o jsonl` was asked for, and an exit status.
    """

    entries: ClassVar[dict[str, Entry]] = {}

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All names, in the order in which a newcomer needs them."""
        return [*self.entries, *super().list_commands(ctx)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and give back one command."""
        entry = self.entries.get(cmd_name)
        if entry is None:
            return super().get_command(ctx, cmd_name)
        command = getattr(importlib.import_module(entry.module), entry.attribute)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands from their entries, without importing one."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry.summary) for name, entry in self.entries.items()])

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Resolved:
        """Find a command, or fail with the nearest name."""
        return resolve_or_suggest(self, super().resolve_command, ctx, args)

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        **extra: Any,
    ) -> Any:
        """Run a command; the process ends with the status that ExitCode documents."""
        words = list(sys.argv[1:] if args is None else args)
        try:
            code = super().main(words, prog_name, complete_var, standalone_mode=False, **extra)
        except Exception as error:  # noqa: BLE001 - the last place that can turn it into a sentence
            code = report(error, wants_json(words))
        except KeyboardInterrupt:
            code = ExitCode.INTERRUPTED
        sys.exit(code if isinstance(code, int) else ExitCode.OK)


class SuggestingGroup(click.Group):
    """A noun with verbs (`mnemos jobs …`): a wrong verb is answered with the nearest."""

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Resolved:
        """Find a command, or fail with the nearest name."""
        return resolve_or_suggest(self, super().resolve_command, ctx, args)


def resolve_or_suggest(
    group: click.Group,
    resolve: Callable[[click.Context, list[str]], Resolved],
    ctx: click.Context,
    args: list[str],
) -> Resolved:
    """Call click's own look-up and add what the person may have meant."""
    try:
        return resolve(ctx, args)
    except click.UsageError as error:
        near = difflib.get_close_matches(args[0], group.list_commands(ctx), n=1)
        if not near:
            raise
        raise click.UsageError(
            f"There is no command {args[0]!r}; did you mean {near[0]!r}?", ctx
        ) from error


def wants_json(words: Sequence[str]) -> bool:
    """Whether the command line asks for JSON, however broken the rest of it is."""
    pairs = zip(words, [*words[1:], ""], strict=False)  # no words, no pairs
    return any(
        (word in ("-o", "--output") and value in ("json", "jsonl"))
        or word in ("-ojson", "-ojsonl", "--output=json", "--output=jsonl")
        for word, value in pairs
    )


def report(error: Exception, as_json: bool) -> int:
    """Say on stderr what went wrong and give back the exit status."""
    if isinstance(error, click.exceptions.Exit):
        return error.exit_code
    if isinstance(error, click.Abort):
        return ExitCode.INTERRUPTED
    if os.environ.get("MNEMOS_DEBUG"):
        raise error
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        click.echo(error.format_message(), err=True)
        return ExitCode.USAGE
    told = as_cli_error(error)
    if as_json:
        import json

        click.echo(json.dumps(told.as_json(), ensure_ascii=False), err=True)
    else:
        _say(told, error)
    return told.exit_code


def as_cli_error(error: Exception) -> CliError:
    """Any exception as one that has a sentence, a code and a status."""
    if isinstance(error, CliError):
        return error
    if isinstance(error, click.ClickException):
        told = CliError(error.format_message(), code="invalid_input")
        told.exit_code = ExitCode.USAGE
        return told
    if isinstance(error, UnicodeEncodeError):
        return NotUnicode()
    if isinstance(error, OSError):
        what = f"{error.filename}: " if error.filename else ""
        return CliError(f"{what}{error.strerror or error}.", code="os_error")
    return CliError(
        f"This should not have happened: {type(error).__name__}: {error}",
        code="internal",
        hint="run it again with MNEMOS_DEBUG=1 to see where",
    )


def _say(told: CliError, error: Exception) -> None:
    if isinstance(error, click.UsageError) and error.ctx is not None:
        click.echo(error.ctx.get_usage(), err=True)
    click.echo(f"{click.style('Error:', fg='red', bold=True)} {told.message}", err=True)
    if told.hint:
        click.echo(f"{click.style('Hint:', fg='cyan')} {told.hint}", err=True)
    if told.request_id:
        click.echo(f"request id: {told.request_id}", err=True)
