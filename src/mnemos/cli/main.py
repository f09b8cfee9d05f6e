"""The `mnemos` command: what it offers, without importing any of it."""

from __future__ import annotations

import click

from .lazy import Entry, LazyGroup


class Mnemos(LazyGroup):
    """All commands, newcomer's first."""

    entries = {  # noqa: RUF012 - declared ClassVar by LazyGroup
        name: Entry(f"mnemos.cli.commands.{module}", attribute, summary)
        for name, module, attribute, summary in (
            ("demo", "demo", "demo", "Watch real prompts run through the whole system."),
            ("up", "up", "up", "Start CORTEX, GENOME and NEURON workers on this machine."),
            ("run", "run", "run", "Answer every line of a JSONL file."),
            ("chat", "chat", "chat", "Talk to a model, or ask it one question."),
            ("models", "models", "models", "Fetch, publish, copy, sign and list models."),
            ("cache", "cache", "cache", "See, check and tidy the models kept on this machine."),
            ("jobs", "jobs", "jobs", "Submit, watch and steer jobs."),
            ("batches", "batches", "batches", "Run files of requests, and again what failed."),
            ("workers", "workers", "workers", "See and steer the workers."),
            (
                "worker",
                "worker",
                "worker",
                "Make this machine a worker that systemd keeps running.",
            ),
            ("keys", "keys", "keys", "Make, list and change API keys."),
            ("doctor", "doctor", "doctor", "Check this machine and say what is missing."),
            ("completion", "completion", "completion", "Print the completion script of a shell."),
            ("version", "version", "show_versions", "Print the versions in use."),
        )
    }


EPILOG = """\b
Exit status
  0    done                      5    a server does not answer
  1    the operation failed      6    conflict, or the wrong state
  2    wrong usage or input      7    timed out
  3    not found                 130  Ctrl-C

\b
Environment
  MNEMOS_CORTEX_URL   where CORTEX answers    (http://127.0.0.1:8080)
  MNEMOS_GENOME_URL   where GENOME answers    (http://127.0.0.1:8081)
  MNEMOS_API_KEY      the key that CORTEX asks for
  MNEMOS_GENOME_TOKEN the token that GENOME asks for
  MNEMOS_ENGRAM_URL   where models' files are (file://<data dir>/engram)
  MNEMOS_DATA_DIR     everything `mnemos up` keeps
  MNEMOS_DEBUG        show tracebacks
  NO_COLOR            no colours
"""


def _print_version(ctx: click.Context, _param: click.Parameter, value: bool) -> None:
    if not value or ctx.resilient_parsing:
        return
    from importlib.metadata import version

    click.echo(f"mnemos {version('mnemos-neuron')}")
    ctx.exit()


@click.group(
    cls=Mnemos,
    epilog=EPILOG,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.option(
    "--version",
    "-V",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_version,
    help="Print the version and leave.",
)
def cli() -> None:
    """Run LLM jobs on machines that fail, and get every answer exactly once.

    \b
    Examples
      mnemos demo                                        see it work
      mnemos up                                          start everything here
      mnemos run prompts.jsonl --model smollm2:135m-instruct -o answers.jsonl
    """


def main() -> None:
    """The entry point of the `mnemos` script."""
    cli(prog_name="mnemos")


if __name__ == "__main__":
    main()
