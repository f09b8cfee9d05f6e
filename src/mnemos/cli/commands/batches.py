"""`mnemos batches`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import NotFound, UsageFault
from ..lazy import SuggestingGroup
from ..options import Decorator, cortex_option, output_option
from ..output import Column, Format, ago, emit_record, emit_rows, note, shorten

if TYPE_CHECKING:
    from ..batch_calls import BatchClient

ENDPOINTS = ("/v1/chat/completions", "/v1/completions", "/v1/embeddings")
STATES = ("waiting", "given_up", "delivered")


@click.group("batches", cls=SuggestingGroup)
def batches() -> None:
    """Run files of requests, and again what failed.

    They are those of OpenAI's Batch API.

    \b
    Examples
      mnemos batches create requests.jsonl --wait
      mnemos batches results batch_01h… --to answers.jsonl
      mnemos batches retry batch_01h…
    """


def _metadata(
    _ctx: click.Context, _param: click.Parameter, pairs: tuple[str, ...]
) -> dict[str, str]:
    told = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not name or not equals:
            raise click.BadParameter(f"{pair!r} is not NAME=VALUE")
        told[name] = value
    return told


def _batch_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """What may be said of any batch."""
    options: list[Decorator] = [
        click.option(
            "--window",
            default="24h",
            show_default=True,
            metavar="TIME",
            help="How long it may take: 90m, 48h.",
        ),
        click.option(
            "--metadata",
            multiple=True,
            callback=_metadata,
            metavar="NAME=VALUE",
            help="Words of your own; repeat it.",
        ),
        click.option(
            "--webhook",
            "webhooks",
            multiple=True,
            metavar="NAME",
            help="An endpoint of CORTEX_WEBHOOKS to be told of the end; repeat it.",
        ),
        click.option("--wait", is_flag=True, help="Wait for its end; 0 if every line is answered."),
        output_option(),
        cortex_option(),
    ]
    for option in reversed(options):
        command = option(command)
    return command


@batches.command("create")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--endpoint",
    type=click.Choice(ENDPOINTS),
    help="What its lines ask.  [default: what the first line says]",
)
@_batch_options
def create_batch(file: Path, endpoint: str | None, **given: Any) -> None:
    """Upload a file of requests, a line each, and run it.

    \b
    Examples
      mnemos batches create requests.jsonl
      mnemos batches create requests.jsonl --window 2h --wait
      mnemos batches create requests.jsonl --metadata run=7 --webhook ci
    """
    endpoint = endpoint or _endpoint_of(file)

    async def begin(cortex: BatchClient, options: Mapping[str, Any]) -> dict[str, Any]:
        stored = await cortex.upload(file)
        return await cortex.create({"input_file_id": stored["id"], "endpoint": endpoint, **options})

    _begin(begin, given)


@batches.command("retry")
@click.argument("batch_id")
@_batch_options
def retry_batch(batch_id: str, **given: Any) -> None:
    """Run the lines of an ended batch that were not answered, as a new batch.

    \b
    Examples
      mnemos batches retry batch_01h… --wait
    """

    async def begin(cortex: BatchClient, options: Mapping[str, Any]) -> dict[str, Any]:
        return await cortex.retry(batch_id, options)

    _begin(begin, given)


def _begin(
    begin: Callable[[BatchClient, Mapping[str, Any]], Awaitable[dict[str, Any]]],
    given: Mapping[str, Any],
) -> None:
    options = {"completion_window": given["window"]}
    options |= {name: given[name] for name in ("metadata", "webhooks") if given[name]}

    async def send(cortex: BatchClient) -> dict[str, Any]:
        return await begin(cortex, options)

    batch = _ask(given["cortex_url"], send)
    output: Format = given["output"]
    if given["wait"]:
        _wait(batch["id"], given["cortex_url"], output)
    elif output is Format.TABLE:
        note(f"It runs. See how far it is with: mnemos batches show {batch['id']}")
        click.echo(batch["id"])
    else:
        emit_record(batch, output)


@batches.command("list")
@click.option(
    "--limit",
    type=click.IntRange(1, 100_000),
    default=20,
    show_default=True,
    help="How many at most.",
)
@output_option(listing=True)
@cortex_option()
def list_batches(limit: int, output: Format, cortex_url: str) -> None:
    """List batches, the newest first.

    \b
    Examples
      mnemos batches list
      mnemos batches list --limit 500 -o jsonl
    """
    emit_rows(
        _ask(cortex_url, lambda cortex: cortex.batches(limit)),
        COLUMNS,
        output,
        name=lambda row: str(row["id"]),
        key="batches",
        empty="There is no batch.",
    )


@batches.command("show")
@click.argument("batch_id")
@click.option("--wait", is_flag=True, help="Wait for its end; 0 if every line is answered.")
@output_option()
@cortex_option()
def show_batch(batch_id: str, wait: bool, output: Format, cortex_url: str) -> None:
    """Show how far a batch is, and what is wrong with it.

    \b
    Examples
      mnemos batches show batch_01h…
      mnemos batches show batch_01h… --wait
    """
    if wait:
        _wait(batch_id, cortex_url, output)
    _print(_ask(cortex_url, lambda cortex: cortex.batch(batch_id)), output)


@batches.command("cancel")
@click.argument("batch_id")
@output_option()
@cortex_option()
def cancel_batch(batch_id: str, output: Format, cortex_url: str) -> None:
    """Let a batch stop; what is answered by then is kept.

    \b
    Examples
      mnemos batches cancel batch_01h…
    """
    batch = _ask(cortex_url, lambda cortex: cortex.cancel(batch_id))
    if output is Format.TABLE:
        note(f"{batch_id}: told to stop; it is {batch['status']} now.")
    else:
        emit_record(batch, output)


@batches.command("results")
@click.argument("batch_id")
@click.option("--errors", is_flag=True, help="The lines that were not answered, and why.")
@click.option(
    "--to",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Write there.  [default: stdout]",
)
@cortex_option()
def results_of_batch(batch_id: str, errors: bool, to: Path | None, cortex_url: str) -> None:
    """Print a batch's answers, a line each; while it runs, those that there are by now.

    \b
    Examples
      mnemos batches results batch_01h… --to answers.jsonl
      mnemos batches results batch_01h… --errors
    """

    async def fetch(cortex: BatchClient) -> None:
        batch = await cortex.batch(batch_id)
        file_id = batch["error_file_id" if errors else "output_file_id"]
        if file_id is None:
            what = "lines that failed" if errors else "answers"
            raise NotFound(f"The batch is {batch['status']} and has no {what}.", code="no_results")
        async with cortex.content(file_id) as content:
            await _write(content, to)

    _ask(cortex_url, fetch)


@batches.command("deliveries")
@click.option(
    "--state",
    type=click.Choice([*STATES, "all"]),
    default="waiting",
    show_default=True,
    help="Which of them.",
)
@click.option(
    "--limit",
    type=click.IntRange(1, 1000),
    default=100,
    show_default=True,
    help="How many at most.",
)
@output_option(listing=True)
@cortex_option()
def list_deliveries(state: str, limit: int, output: Format, cortex_url: str) -> None:
    """List what webhooks have not been told yet, or were.

    \b
    Examples
      mnemos batches deliveries
      mnemos batches deliveries --state given_up
    """
    wanted = None if state == "all" else state
    emit_rows(
        _ask(cortex_url, lambda cortex: cortex.deliveries(wanted, limit)),
        DELIVERY_COLUMNS,
        output,
        name=lambda row: str(row["event_id"]),
        key="deliveries",
        empty="There is none.",
    )


def _ask(cortex_url: str, work: Callable[[BatchClient], Awaitable[Any]]) -> Any:
    from ..batch_calls import BatchClient
    from ..http import run_async

    async def ask() -> Any:
        async with BatchClient(cortex_url) as cortex:
            return await work(cortex)

    return run_async(ask())


def _wait(batch_id: str, cortex_url: str, output: Format) -> None:
    """Follow a batch to its end, print it, and leave with the status that mirrors it."""
    from ..batch_watching import exit_code_of, open_display, watch

    try:
        with open_display(shown=output is Format.TABLE) as display:
            batch = _ask(cortex_url, lambda cortex: watch(cortex, batch_id, display))
    except KeyboardInterrupt:
        note(f"\nThe batch goes on; come back with: mnemos batches show {batch_id} --wait")
        raise
    _print(batch, output)
    raise click.exceptions.Exit(exit_code_of(batch))


def _print(batch: Mapping[str, Any], output: Format) -> None:
    if output is not Format.TABLE:
        emit_record(batch, output)
        return
    counts = batch["request_counts"]
    shown = {name: value for name, value in batch.items() if name not in _NOT_SHOWN}
    shown |= {name: _time(value) for name, value in batch.items() if name.endswith("_at")}
    shown |= {"request_counts": None, "webhooks": ", ".join(batch.get("webhooks") or ()) or None}
    shown |= {"lines": f"{counts['total']}, {counts['completed']} answered"}
    if counts["failed"]:
        shown["lines"] += f", {counts['failed']} failed"
    emit_record(shown, output)
    for error in (batch["errors"] or {}).get("data", ()):
        where = f"line {error['line']}: " if error["line"] else ""
        note(f"{where}{error['message']} ({error['code']})")


def _endpoint_of(file: Path) -> str:
    """What the first request of a file asks; raises UsageFault where it does not say."""
    import json

    with file.open("rb") as lines:
        first = next((line for line in lines if line.strip()), b"")
    try:
        url = json.loads(first)["url"]
    except (ValueError, TypeError, KeyError):
        url = None
    if url not in ENDPOINTS:
        raise UsageFault(
            f"{file}: its first line names no endpoint of a batch.",
            hint=f"each line has a url, one of: {', '.join(ENDPOINTS)}",
        )
    return str(url)


async def _write(content: Any, to: Path | None) -> None:
    """Hand on an answer's bytes; a file appears only when all is there."""
    if to is None:
        async for piece in content.aiter_bytes():
            click.echo(piece, nl=False)
        return
    half = to.with_name(f"{to.name}.part")
    try:
        with half.open("wb") as file:
            async for piece in content.aiter_bytes():
                file.write(piece)
        half.replace(to)
    finally:
        half.unlink(missing_ok=True)


def _time(seconds: int | None) -> str | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).isoformat()


_NOT_SHOWN = frozenset({"object", "errors", "request_counts"})
COLUMNS = (
    Column("batch", lambda row: row["id"]),
    Column("status", lambda row: row["status"]),
    Column("answered", lambda row: row["request_counts"]["completed"], right=True),
    Column("failed", lambda row: row["request_counts"]["failed"], right=True),
    Column("lines", lambda row: row["request_counts"]["total"], right=True),
    Column("endpoint", lambda row: row["endpoint"]),
    Column("created", lambda row: ago(_time(row["created_at"]))),
)
DELIVERY_COLUMNS = (
    Column("event", lambda row: row["event_id"]),
    Column("endpoint", lambda row: row["endpoint"]),
    Column("type", lambda row: row["type"]),
    Column("state", lambda row: row["state"]),
    Column("attempts", lambda row: row["attempts"], right=True),
    Column("next", lambda row: ago(row["next_at"])),
    Column("error", lambda row: shorten(row["error"] or "", 60)),
)
