"""`mnemos chat`."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from typing import Any

import click

from ..errors import CliError, ExitCode, UsageFault
from ..options import DEFAULT_MODEL, cortex_option
from ..output import note
from ..sampling import sampling_options, sampling_parameters

CANCEL_SECONDS = 3.0
HELP = "/exit leaves, /clear forgets what was said, Ctrl-C stops an answer."


@click.command("chat")
@click.argument("question", required=False)
@click.option(
    "-m",
    "--model",
    envvar="MNEMOS_MODEL",
    show_envvar=True,
    default=DEFAULT_MODEL,
    show_default=True,
    metavar="FAMILY[:VERSION]",
    help="Who answers.",
)
@sampling_options
@cortex_option()
def chat(question: str | None, model: str, cortex_url: str, **given: Any) -> None:
    """Talk to a model, or ask it one question.

    Answers come word by word from whichever worker takes the job. Ctrl-C stops an answer and
    its job. What is piped in is one question.

    \b
    Examples
      mnemos chat
      mnemos chat "Why is the sky blue?"
      git diff | mnemos chat --system "Explain this change." --temperature 0
    """
    if question is None and not sys.stdin.isatty():
        question = sys.stdin.read()
    talk = Conversation(model, cortex_url, given)
    if question is None:
        _converse(talk)
    elif not question.strip():
        raise UsageFault("The question is empty.")
    else:
        raise click.exceptions.Exit(talk.ask(question))


class Conversation:
    """What was said so far, and how the next question is asked."""

    def __init__(self, model: str, cortex_url: str, given: dict[str, Any]) -> None:
        from ..names import split_model_name

        self.model = model
        self._family, self._version = split_model_name(model)
        self._cortex_url = cortex_url
        self._runtime = given["runtime"]
        self._parameters = {**sampling_parameters(given), "stream": True}
        system = given["system"]
        self._opening = [{"role": "system", "content": system}] if system else []
        self._said: list[dict[str, str]] = []

    def clear(self) -> None:
        """Forget everything but the system message."""
        self._said.clear()

    def ask(self, question: str) -> int:
        """Ask, print the answer as it comes, and remember both; an exit status.

        Raises CliError when it cannot be asked, KeyboardInterrupt after Ctrl-C; neither leaves
        the question in the conversation.
        """
        from ..http import run_async
        from ..watching import exit_code_of, failure_sentence

        turn = {"role": "user", "content": question}
        job = run_async(self._answer([*self._opening, *self._said, turn]))
        click.echo()
        if job["status"] != "completed":
            note(failure_sentence(job))
            return exit_code_of(job)
        self._said += [turn, {"role": "assistant", "content": str(job.get("result") or "")}]
        return ExitCode.OK

    async def _answer(self, messages: list[dict[str, str]]) -> dict[str, Any]:
        from ..http import CortexClient
        from ..watching import TokenWriter, follow

        async with CortexClient(self._cortex_url) as cortex:
            job = await cortex.submit(self._body(messages))
            try:
                return await follow(cortex, job["job_id"], TokenWriter())
            except asyncio.CancelledError:
                with contextlib.suppress(CliError, TimeoutError):
                    async with asyncio.timeout(CANCEL_SECONDS):
                        await cortex.job_action(job["job_id"], "cancel")
                raise

    def _body(self, messages: list[dict[str, str]]) -> dict[str, Any]:
        model = {"family": self._family, "version": self._version, "runtime": self._runtime}
        return {
            "model": {name: value for name, value in model.items() if value},
            "input": {"messages": messages, "parameters": self._parameters},
            "priority": 8,
        }


def _converse(talk: Conversation) -> None:
    # Importing it gives input() a line editor and a history.
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401

    note(f"Talking to {talk.model}. {HELP}")
    while True:
        try:
            question = input("> ").strip()
        except (EOFError, KeyboardInterrupt):
            note("")
            return
        if question in ("/exit", "/quit"):
            return
        if question == "/clear":
            talk.clear()
        elif question.startswith("/"):
            note(HELP)
        elif question:
            _ask_and_go_on(talk, question)


def _ask_and_go_on(talk: Conversation, question: str) -> None:
    try:
        talk.ask(question)
    except KeyboardInterrupt:
        note("\n[stopped]")
    except CliError as error:
        note(f"{click.style('Error:', fg='red')} {error.message}")
        if error.hint:
            note(f"Hint: {error.hint}")
