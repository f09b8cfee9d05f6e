"""`mnemos keys`: who may use CORTEX, and how much of it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any

import click

from ..errors import UsageFault
from ..lazy import SuggestingGroup
from ..options import Decorator, cortex_option, output_option
from ..output import Column, Format, ago, emit_record, emit_rows, note, print_fields

if TYPE_CHECKING:
    from ..http import CortexClient

AS_IT_IS = "as it is"
SCOPES = ("submit", "read", "admin", "worker")


NO_LIMIT = -1
"""What `none` becomes: None means that nothing was said."""


def _limit(_ctx: click.Context, param: click.Parameter, value: str | None) -> int | None:
    if value is None:
        return None
    if value == "none":
        return NO_LIMIT
    if not (value.isascii() and value.isdigit() and int(value) > 0):
        raise click.BadParameter(f"{value!r} is neither a number above 0 nor none.", param=param)
    return int(value)


@click.group("keys", cls=SuggestingGroup)
def keys() -> None:
    """Make, list and change API keys.

    All of it takes a key with the scope admin in MNEMOS_API_KEY, or CORTEX's CORTEX_ADMIN_KEY
    there, once CORTEX asks for keys: it does as soon as there is one.

    \b
    Examples
      mnemos keys create boss --scope admin
      mnemos keys create alice --max-waiting-jobs 1000 --tokens-per-minute 100000
      mnemos keys disable alice
    """


def _limits(*, scopes: str, weight: str, limit: str) -> Decorator:
    """The options of what a key may do, each with its default in words."""

    def add(command: Callable[..., Any]) -> Callable[..., Any]:
        options: list[Decorator] = [
            click.option(
                "--scope",
                "scopes",
                multiple=True,
                type=click.Choice(SCOPES),
                help=f"What it may do; repeatable.  [default: {scopes}]",
            ),
            click.option(
                "--weight",
                type=click.FloatRange(min=0, min_open=True, max=1000),
                help=f"Its share of the workers against others' keys.  [default: {weight}]",
            ),
            click.option(
                "--max-waiting-jobs",
                metavar="NUMBER|none",
                callback=_limit,
                help=f"Jobs that may wait at a time.  [default: {limit}]",
            ),
            click.option(
                "--tokens-per-minute",
                metavar="NUMBER|none",
                callback=_limit,
                help=f"Tokens it may use a minute.  [default: {limit}]",
            ),
        ]
        for option in reversed(options):
            command = option(command)
        return command

    return add


@keys.command("create")
@click.argument("name")
@_limits(scopes="submit and read", weight="1", limit="none")
@output_option()
@cortex_option()
def create_key(name: str, cortex_url: str, output: Format, **given: Any) -> None:
    """Make a key and print its secret, this once: CORTEX keeps only a hash of it.

    Without --scope it may submit and read, without limits.

    \b
    Examples
      mnemos keys create alice
      export MNEMOS_API_KEY=$(mnemos keys create alice -o json | jq -r .secret)
      mnemos keys create gpu-7 --scope worker
    """
    made = _ask(cortex_url, lambda cortex: cortex.create_key({"name": name, **_said(given)}))
    if output is not Format.TABLE:
        emit_record(made, output)
        return
    click.echo(made["secret"])
    scopes = " and ".join(made["scopes"])
    note(f"{name} ({made['key_id']}) may {scopes}. The secret is not shown again.")


@keys.command("list")
@output_option(listing=True)
@cortex_option()
def list_keys(cortex_url: str, output: Format) -> None:
    """List all keys.

    \b
    Examples
      mnemos keys list
      mnemos keys list -o json
    """
    columns = [
        Column("name", lambda row: row["name"]),
        Column("key", lambda row: row["key_id"]),
        Column("scopes", lambda row: ", ".join(row["scopes"])),
        Column("weight", lambda row: f"{row['weight']:g}", right=True),
        Column("waiting", lambda row: row["max_waiting_jobs"], right=True),
        Column("tokens/min", lambda row: row["tokens_per_minute"], right=True),
        Column("made", lambda row: ago(row["created_at"])),
        Column("disabled", lambda row: ago(row["disabled_at"])),
    ]
    emit_rows(
        _ask(cortex_url, lambda cortex: cortex.keys()),
        columns,
        output,
        name=lambda row: str(row["name"]),
        key="keys",
        empty="There are no keys; make one with: mnemos keys create NAME --scope admin",
    )


@keys.command("show")
@click.argument("key")
@output_option()
@cortex_option()
def show_key(key: str, cortex_url: str, output: Format) -> None:
    """Show one key, by its name or its id.

    \b
    Examples
      mnemos keys show alice
    """
    _print(_ask(cortex_url, lambda cortex: cortex.key(key)), output)


@keys.command("update")
@click.argument("key")
@click.option("--name", help="Another name.  [default: as it is]")
@_limits(scopes=AS_IT_IS, weight=AS_IT_IS, limit=AS_IT_IS)
@click.option("--enable", is_flag=True, help="Let a disabled key in again.")
@output_option()
@cortex_option()
def update_key(key: str, cortex_url: str, output: Format, enable: bool, **given: Any) -> None:
    """Change what a key may do; what is not given stays as it is.

    \b
    Examples
      mnemos keys update alice --weight 2
      mnemos keys update alice --scope submit --scope read --tokens-per-minute none
      mnemos keys update alice --enable
    """
    changes = _said(given) | ({"disabled": False} if enable else {})
    if not changes:
        raise UsageFault("Nothing to change was given.", hint="see: mnemos keys update --help")
    _print(_ask(cortex_url, lambda cortex: cortex.change_key(key, changes)), output)


@keys.command("disable")
@click.argument("key")
@output_option()
@cortex_option()
def disable_key(key: str, cortex_url: str, output: Format) -> None:
    """Let a key in no more, until it is enabled again; its jobs go on.

    \b
    Examples
      mnemos keys disable alice
    """
    _print(_ask(cortex_url, lambda cortex: cortex.change_key(key, {"disabled": True})), output)


@keys.command("delete")
@click.argument("key")
@output_option()
@cortex_option()
def delete_key(key: str, cortex_url: str, output: Format) -> None:
    """Forget a key; its jobs go on, and only admins see them.

    \b
    Examples
      mnemos keys delete alice
    """
    gone = _ask(cortex_url, lambda cortex: cortex.delete_key(key))
    if output is Format.TABLE:
        note(f"{key} is deleted.")
    else:
        emit_record(gone, output)


def _ask(cortex_url: str, ask: Callable[[CortexClient], Awaitable[Any]]) -> Any:
    from ..http import CortexClient, run_async

    async def answer() -> Any:
        async with CortexClient(cortex_url) as cortex:
            return await ask(cortex)

    return run_async(answer())


def _said(given: Mapping[str, Any]) -> dict[str, Any]:
    """What was given, as the API takes it."""
    said = {name: value for name, value in given.items() if value not in (None, ())}
    if "scopes" in said:
        said["scopes"] = list(dict.fromkeys(said["scopes"]))
    return {name: None if value == NO_LIMIT else value for name, value in said.items()}


def _print(shown: Mapping[str, Any], output: Format) -> None:
    if output is not Format.TABLE:
        emit_record(shown, output)
        return
    print_fields(
        [
            ("name", shown["name"]),
            ("key", shown["key_id"]),
            ("scopes", ", ".join(shown["scopes"])),
            ("weight", f"{shown['weight']:g}"),
            ("waiting jobs", shown["max_waiting_jobs"] or "no limit"),
            ("tokens a minute", shown["tokens_per_minute"] or "no limit"),
            ("made", ago(shown["created_at"])),
            ("disabled", ago(shown["disabled_at"])),
        ]
    )
