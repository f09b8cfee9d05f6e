"""`mnemos run`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ..errors import ExitCode, TimedOut, Unreachable, UsageFault
from ..options import DEFAULT_MODEL, cortex_option
from ..output import note
from ..sampling import sampling_options, sampling_parameters


@click.command("run")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
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
    "-o",
    "--output",
    "out",
    required=True,
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="OUT.jsonl",
    help="Where the answers go, one JSON line each, as they come.",
)
@sampling_options
@click.option(
    "--priority", type=click.IntRange(1, 10), default=5, show_default=True, help="10 goes first."
)
@click.option(
    "--timeout",
    "timeout_seconds",
    type=click.IntRange(1, 3600),
    default=300,
    show_default=True,
    help="Seconds that one line may take, its model's loading included.",
)
@click.option(
    "--retries", type=click.IntRange(0, 100), default=3, show_default=True, help="Per line."
)
@click.option(
    "--concurrency-window",
    "window",
    type=click.IntRange(1, 100_000),
    default=2000,
    show_default=True,
    help="How many lines may be submitted and unfinished at a time.",
)
@click.option("--restart", is_flag=True, help="Delete the answers of an earlier run, begin anew.")
@click.option(
    "--retry-failed",
    is_flag=True,
    help="Of a run that is complete, ask the lines that failed once more.",
)
@cortex_option()
def run(
    file: Path,
    model: str,
    out: Path,
    cortex_url: str,
    restart: bool,
    retry_failed: bool,
    window: int,
    **given: Any,
) -> None:
    """Answer every line of a JSONL file.

    A line is {"prompt": "…"} or {"messages": […]}, with an "id" and "parameters" of its own if
    you like, or just a string. Stop it when you want: the same command goes on from there, and
    in the end every id is in the answers exactly once. A line that fails is told by its number
    and does not hold up the others; the exit status is then 1.

    \b
    Examples
      mnemos run prompts.jsonl -o answers.jsonl
      mnemos run prompts.jsonl -m smollm2 -o answers.jsonl --temperature 0 --max-tokens 64
      mnemos run prompts.jsonl -o answers.jsonl --retry-failed --timeout 900
      mnemos run prompts.jsonl -o answers.jsonl --restart
    """
    from ..http import run_async
    from ..runs.session import RunRequest, run_file

    if restart and retry_failed:
        raise UsageFault("Give either --restart or --retry-failed.")
    settings = _settings(model, given)
    request = RunRequest(file, out, settings, cortex_url, restart, window, retry_failed)
    try:
        summary = run_async(run_file(request))
    except KeyboardInterrupt:
        note(f"\nStopped. Nothing is lost: the same command continues, from what {out} holds.")
        raise
    except (Unreachable, TimedOut) as error:
        error.hint = error.hint or "the same command continues where this one stopped"
        raise
    note(summary.sentence(out))
    if summary.failed:
        raise click.exceptions.Exit(ExitCode.FAILED)


def _settings(model: str, given: dict[str, Any]) -> Any:
    from ..names import split_model_name
    from ..runs.record import RunSettings

    family, version = split_model_name(model)
    return RunSettings(
        family=family,
        version=version,
        runtime=given["runtime"],
        parameters=sampling_parameters(given),
        system=given["system"],
        priority=given["priority"],
        timeout_seconds=given["timeout_seconds"],
        max_retries=given["retries"],
    )
