"""`mnemos jobs`."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..durations import moment_option
from ..errors import ExitCode
from ..job_bodies import METRICS, job_body
from ..job_views import JOB_COLUMNS, model_name, print_job, print_result
from ..lazy import SuggestingGroup
from ..options import DEFAULT_MODEL, cortex_option, output_option
from ..output import Format, emit_record, emit_rows, note, to_json
from ..sampling import answer_options, sampling_options
from .job_result import result_of_job

if TYPE_CHECKING:
    from ..watching import Listener

STATUSES = (
    "pending",
    "acquired",
    "loading_model",
    "executing",
    "streaming",
    "completed",
    "failed",
    "cancelled",
    "timeout",
)
DEAD_STATUSES = ("failed", "timeout", "cancelled")
JOB_TYPES = ("inference", "batch_inference", "evaluation", "training", "fine_tuning")


@click.group("jobs", cls=SuggestingGroup)
def jobs() -> None:
    """Submit, watch and steer jobs.

    \b
    Examples
      mnemos jobs submit --prompt "Why is the sky blue?" --stream
      mnemos jobs list --status failed
      mnemos jobs show job_01h…
    """


@jobs.command("submit")
@click.option(
    "-m",
    "--model",
    envvar="MNEMOS_MODEL",
    show_envvar=True,
    default=DEFAULT_MODEL,
    show_default=True,
    metavar="FAMILY[:VERSION]",
    help="The model that answers.",
)
@click.option(
    "-p", "--prompt", help="What is asked; - reads it from stdin.  [default: none, with --inputs]"
)
@click.option(
    "--inputs",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE.jsonl",
    help="The rows of a batch or an evaluation, a line each.  [default: none, with --prompt]",
)
@click.option(
    "--job-type",
    type=click.Choice(JOB_TYPES),
    help="What kind of work it is.  [default: batch_inference with --inputs, else inference]",
)
@click.option(
    "--metric",
    type=click.Choice(METRICS),
    multiple=True,
    help="What an evaluation measures; repeat it.",
)
@sampling_options
@answer_options
@click.option(
    "--priority",
    type=click.IntRange(1, 10),
    default=5,
    show_default=True,
    help="10 goes first.",
)
@click.option(
    "--timeout",
    "timeout_seconds",
    type=click.IntRange(1, 3600),
    default=300,
    show_default=True,
    help="Seconds that the job may take, the model's loading included.",
)
@click.option("--idempotency-key", help="The same key gives the same job back.  [default: none]")
@click.option("--stream", is_flag=True, help="Print the tokens as they come; implies --wait.")
@click.option("--wait", is_flag=True, help="Wait for the answer; the exit status mirrors the job.")
@output_option(listing=True)
@cortex_option()
def submit_job(stream: bool, wait: bool, cortex_url: str, output: Format, **given: Any) -> None:
    """Submit one job and print its id, or its answer.

    With --inputs one job asks every row of a file (a text, or an object with prompt or messages;
    for an evaluation also with reference). For files of any length there is: mnemos run.

    \b
    Examples
      mnemos jobs submit --prompt "Why is the sky blue?"
      mnemos jobs submit --prompt "Is snow white?" --choice yes --choice no --wait
      mnemos jobs submit --inputs exam.jsonl --job-type evaluation --metric f1 --wait
      mnemos jobs submit --prompt "Why is the sky blue?" --stream --max-tokens 64
      cat letter.txt | mnemos jobs submit --prompt - --wait -o json
    """
    from ..http import CortexClient, run_async

    body = job_body(given, stream=stream)

    async def submit() -> dict[str, Any]:
        async with CortexClient(cortex_url) as cortex:
            return await cortex.submit(body)

    job = run_async(submit())
    if stream or wait:
        _watch(job["job_id"], cortex_url, output, show_tokens=stream)
    elif output is Format.TABLE:
        note(f"Submitted to {model_name(job)}. Watch it with: mnemos jobs watch {job['job_id']}")
        click.echo(job["job_id"])
    else:
        emit_record(job, output, name="job_id")


@jobs.command("list")
@click.option("--status", type=click.Choice(STATUSES), multiple=True, help="May be repeated.")
@click.option("--model", metavar="FAMILY[:VERSION]", help="Only this model's.")
@click.option("--worker", "worker_id", help="Only those in this worker's hands.")
@click.option("--group", help="Only this group's.")
@click.option("--job-type", type=click.Choice(JOB_TYPES), help="Only those of this type.")
@click.option("--error-code", help="Only those that ended with this code, as engine_crashed.")
@click.option(
    "--limit",
    type=click.IntRange(1, 100_000),
    default=50,
    show_default=True,
    help="How many at most.",
)
@click.option("--all", "everything", is_flag=True, help="All of them, however many.")
@output_option(listing=True)
@cortex_option()
def list_jobs(
    status: tuple[str, ...],
    limit: int,
    everything: bool,
    cortex_url: str,
    output: Format,
    **filters: str | None,
) -> None:
    """List jobs, the newest first.

    \b
    Examples
      mnemos jobs list
      mnemos jobs list --status failed --status timeout
      mnemos jobs list --error-code engine_crashed
      mnemos jobs list --model smollm2 --all -o jsonl
    """
    from ..http import CortexClient, run_async

    params = [("status", word) for word in status]
    params += [(name, value) for name, value in filters.items() if value]

    async def fetch() -> list[dict[str, Any]]:
        async with CortexClient(cortex_url) as cortex:
            return await _all_pages(cortex, params, None if everything else limit)

    emit_rows(
        run_async(fetch()),
        JOB_COLUMNS,
        output,
        name=lambda row: str(row["job_id"]),
        key="jobs",
        empty="No job fits.",
    )


async def _all_pages(
    cortex: Any, params: list[tuple[str, str]], limit: int | None
) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    cursor: str | None = None
    while True:
        wanted = 500 if limit is None else min(500, limit - len(found))
        page = await cortex.jobs([*params, ("limit", wanted), ("cursor", cursor)])
        found += page["jobs"]
        cursor = page.get("next_cursor")
        if not cursor or (limit is not None and len(found) >= limit):
            return found


@jobs.command("show")
@click.argument("job_id")
@output_option()
@cortex_option()
def show_job(job_id: str, cortex_url: str, output: Format) -> None:
    """Show one job, its attempts, and why it waits if it does.

    \b
    Examples
      mnemos jobs show job_01h…
      mnemos jobs show job_01h… -o json
    """
    from ..http import CortexClient, run_async

    async def fetch() -> dict[str, Any]:
        async with CortexClient(cortex_url) as cortex:
            return await cortex.job(job_id)

    job = run_async(fetch())
    if output is Format.TABLE:
        print_job(job)
    else:
        emit_record(job, output)


@jobs.command("watch")
@click.argument("job_id")
@output_option()
@cortex_option()
def watch_job(job_id: str, cortex_url: str, output: Format) -> None:
    """Print a job's tokens as they come, or count its rows; the exit status mirrors the job.

    Ctrl-C only stops watching: the job goes on.

    \b
    Examples
      mnemos jobs watch job_01h…
    """
    _watch(job_id, cortex_url, output, show_tokens=True)


def _watch(job_id: str, cortex_url: str, output: Format, *, show_tokens: bool) -> None:
    """Follow a job to its end and leave with the status that mirrors it."""
    from ..http import run_async
    from ..watching import Listener, Printer, exit_code_of, failure, failure_sentence

    human = output is Format.TABLE
    listener = Printer(show_tokens=show_tokens) if human else Listener()
    try:
        job = run_async(_follow(job_id, cortex_url, listener))
    except KeyboardInterrupt:
        note(f"\nThe job goes on; come back with: mnemos jobs watch {job_id}")
        raise
    if not human:
        emit_record(job, output, name="job_id")
    elif isinstance(listener, Printer) and listener.has_shown_tokens:
        click.echo()
    else:
        print_result(job)
    if job["status"] != "completed":
        note(failure_sentence(job) if human else to_json(failure(job).as_json()))
    raise click.exceptions.Exit(exit_code_of(job))


async def _follow(job_id: str, cortex_url: str, listener: Listener) -> dict[str, Any]:
    from ..http import CortexClient
    from ..watching import follow

    async with CortexClient(cortex_url) as cortex:
        return await follow(cortex, job_id, listener)


def _add_action(action: str, done: str, purpose: str) -> None:
    @click.argument("job_ids", nargs=-1, required=True, metavar="JOB_ID...")
    @output_option()
    @cortex_option()
    def act(job_ids: tuple[str, ...], output: Format, cortex_url: str) -> None:
        from ..http import CortexClient, run_async
        from ..steering import steer

        async def send() -> ExitCode:
            async with CortexClient(cortex_url) as cortex:
                return await steer(
                    job_ids,
                    lambda job_id: cortex.job_action(job_id, action),
                    output,
                    key="jobs",
                    sentence=lambda job_id, job: f"{job_id}: {done}; it is {job['status']} now.",
                )

        raise click.exceptions.Exit(run_async(send()))

    act.__doc__ = f"{purpose}\n\n\b\nExamples\n  mnemos jobs {action} job_01h…"
    jobs.command(action)(act)


_add_action("cancel", "told to stop", "Stop jobs, waiting or running.")
_add_action("retry", "queued again", "Queue failed, timed out or cancelled jobs again.")


@jobs.command("redrive")
@click.option(
    "--status",
    type=click.Choice(DEAD_STATUSES),
    multiple=True,
    default=("failed",),
    show_default=True,
    help="May be repeated.",
)
@click.option("--model", metavar="FAMILY[:VERSION]", help="Only this model's.")
@click.option("--group", help="Only this group's.")
@click.option("--error-code", help="Only those that ended with this code, as engine_crashed.")
@click.option(
    "--since",
    "finished_after",
    callback=moment_option,
    metavar="TIME",
    help="Only those that ended since then: 2h ago, or a date.",
)
@click.option(
    "--until",
    "finished_before",
    callback=moment_option,
    metavar="TIME",
    help="Only those that had ended by then.",
)
@click.option(
    "--limit", type=click.IntRange(1, 10_000_000), help="How many at most.  [default: all]"
)
@click.option("--dry-run", is_flag=True, help="Only say how many they are.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask; nobody is asked without a terminal.")
@output_option()
@cortex_option()
def redrive_jobs(
    dry_run: bool,
    yes: bool,
    limit: int | None,
    output: Format,
    cortex_url: str,
    **filters: Any,
) -> None:
    """Queue dead letters again: all ended jobs that fit, as `jobs retry` does with one.

    A job that fails anew meanwhile is left alone. Run again, it finds only those.

    \b
    Examples
      mnemos jobs redrive --error-code engine_crashed --dry-run
      mnemos jobs redrive --error-code engine_crashed --model llama --since 2h
      mnemos jobs redrive --status failed --status timeout --group g --yes
    """
    from ..http import run_async
    from ..redriving import count, redrive

    wanted = {**filters, "status": list(filters["status"]), "limit": limit}
    body = {name: _plain(value) for name, value in wanted.items() if value is not None}
    fitting = run_async(count(cortex_url, body))
    if not dry_run and fitting:
        _ask(f"Queue {_jobs(fitting)} again?", yes)
        fitting = run_async(redrive(cortex_url, body, fitting))
    if output is not Format.TABLE:
        emit_record({"jobs": fitting, "dry_run": dry_run}, output)
    elif not fitting:
        note("No job fits.")
    else:
        note(f"{_jobs(fitting)} {'would be queued' if dry_run else 'queued'} again.")


jobs.add_command(result_of_job)


def _plain(value: Any) -> Any:
    return value.isoformat() if isinstance(value, datetime) else value


def _jobs(count: int) -> str:
    return f"{count} job{'' if count == 1 else 's'}"


def _ask(question: str, yes: bool) -> None:
    """Ask on a terminal; a script has said what it wants."""
    if not yes and stdin_is_a_terminal():
        click.confirm(question, abort=True, err=True)


def stdin_is_a_terminal() -> bool:
    """Whether somebody can be asked."""
    import sys

    return sys.stdin.isatty()
