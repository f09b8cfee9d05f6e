"""The command tree: what it lists, how fast, and what it says when it is used wrongly."""

from __future__ import annotations

import json
import subprocess
import sys
import time

import click
import pytest
from click.testing import CliRunner

from mnemos.cli.errors import CliError, Conflict, ExitCode, error_from_response
from mnemos.cli.lazy import report, wants_json
from mnemos.cli.main import cli


def every_command() -> list[tuple[str, click.Command]]:
    """All commands, groups included, with their full names."""
    context = click.Context(cli)
    found: list[tuple[str, click.Command]] = []
    for name in cli.list_commands(context):
        command = cli.get_command(context, name)
        assert command is not None
        found.append((name, command))
        if isinstance(command, click.Group):
            found += [(f"{name} {verb}", inner) for verb, inner in command.commands.items()]
    return found


ALL_COMMANDS = pytest.mark.parametrize(
    ("name", "command"), [pytest.param(name, command, id=name) for name, command in every_command()]
)


def test_summaries_in_the_list_are_those_of_the_commands() -> None:
    context = click.Context(cli)
    for name, entry in type(cli).entries.items():
        command = cli.get_command(context, name)
        assert command is not None
        assert command.get_short_help_str(200) == entry.summary, name


@ALL_COMMANDS
def test_every_command_has_purpose_and_examples(name: str, command: click.Command) -> None:
    result = CliRunner().invoke(cli, [*name.split(), "--help"])
    assert result.exit_code == 0
    assert "Examples" in result.output
    assert f"mnemos {name.split()[0]}" in result.output


@ALL_COMMANDS
def test_every_flag_says_what_it_does_and_its_default(name: str, command: click.Command) -> None:
    for option in command.params:
        if not isinstance(option, click.Option) or option.name == "help":
            continue
        assert option.help, f"{name} {option.opts}"
        said = option.show_default or "[default:" in option.help
        assert said or option.is_flag or option.required or option.multiple or is_filter(option), (
            f"{name} {option.opts} does not say its default"
        )


def is_filter(option: click.Option) -> bool:
    """A filter of a listing has no default to tell: without it, nothing is left out."""
    return (option.help or "").startswith("Only ")


def test_help_does_not_import_the_commands() -> None:
    code = (
        "import sys; from mnemos.cli.main import cli\n"
        "try: cli(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'rich', 'httpx2', 'pydantic', 'grpc', 'torch', 'sqlalchemy', 'obstore'}\n"
        "loaded = heavy & sys.modules.keys()\n"
        "commands = [m for m in sys.modules if m.startswith('mnemos.cli.commands.')]\n"
        "assert not loaded and not commands, (loaded, commands)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)


def test_the_version_is_there_at_once() -> None:
    def measure() -> float:
        started = time.monotonic()
        command = [sys.executable, "-m", "mnemos.cli.main", "--version"]
        subprocess.run(command, check=True, capture_output=True)
        return time.monotonic() - started

    assert min(measure() for _ in range(5)) < 0.3, "150 ms on an idle machine"


def test_a_wrong_command_is_answered_with_the_nearest() -> None:
    result = CliRunner().invoke(cli, ["job", "list"])
    assert result.exit_code == ExitCode.USAGE
    assert "did you mean 'jobs'" in result.stderr
    inner = CliRunner().invoke(cli, ["jobs", "sumbit"])
    assert "did you mean 'submit'" in inner.stderr


@pytest.mark.parametrize(
    "words",
    [
        ["jobs", "submit", "--prompt", "x", "--max-tokens", "0"],
        ["jobs", "submit", "--prompt", "x", "--temperature", "3"],
        ["jobs", "submit", "--prompt", "  "],
        ["jobs", "submit", "--prompt", "x", "--model", "../evil:1"],
        ["jobs", "submit", "--prompt", "x", "--model", "a:../1"],
        ["jobs", "submit", "--prompt", "x", "--runtime", "llama"],
        ["jobs", "list", "--cortex-url", "nonsense"],
        ["models", "push", ".", "--name", "no-version"],
        ["models", "pull", "hf://just-a-name"],
        ["run", "/does/not/exist.jsonl", "-o", "x"],
        ["up", "--http-port", "70000"],
    ],
)
def test_wrong_usage_ends_with_2_and_one_sentence(words: list[str]) -> None:
    result = CliRunner().invoke(cli, words)
    assert result.exit_code == ExitCode.USAGE
    assert "Error: " in result.stderr
    assert "Traceback" not in result.stderr
    assert result.stdout == ""


def test_an_unreachable_server_ends_with_5_and_says_what_to_do() -> None:
    result = CliRunner().invoke(cli, ["jobs", "list", "--cortex-url", "http://127.0.0.1:1"])
    assert result.exit_code == ExitCode.UNREACHABLE
    assert "CORTEX does not answer at http://127.0.0.1:1" in result.stderr
    assert "start it with: mnemos up" in result.stderr


def test_errors_are_json_when_json_was_asked_for() -> None:
    words = ["jobs", "list", "--cortex-url", "http://127.0.0.1:1", "-o", "json"]
    result = CliRunner().invoke(cli, words)
    told = json.loads(result.stderr)["error"]
    assert (result.exit_code, told["code"]) == (ExitCode.UNREACHABLE, "unavailable")
    assert told["hint"] == "start it with: mnemos up"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["jobs", "list", "-o", "json"], True),
        (["jobs", "list", "--output=jsonl"], True),
        (["jobs", "list", "-ojson"], True),
        (["run", "json", "-o", "answers.jsonl"], False),
        (["jobs", "list", "-o"], False),
        ([], False),
    ],
)
def test_json_mode_is_seen_on_a_broken_command_line(words: list[str], expected: bool) -> None:
    assert wants_json(words) is expected


@pytest.mark.parametrize(
    ("status", "code", "exit_code"),
    [
        (404, "job_not_found", 3),
        (409, "conflict", 6),
        (413, "too_large", 2),
        (422, "invalid_input", 2),
        (500, "internal", 1),
        (503, "unavailable", 5),
    ],
)
def test_a_service_keeps_its_code_and_its_sentence(status: int, code: str, exit_code: int) -> None:
    body = {"error": {"code": code, "message": "So it is.", "field": None}}
    error = error_from_response("CORTEX", status, body, "req_1")
    assert (error.exit_code, error.code, error.message) == (exit_code, code, "So it is.")
    assert error.as_json()["error"]["request_id"] == "req_1"


def test_what_is_not_cortex_is_told_apart() -> None:
    error = error_from_response("CORTEX", 404, "<html>")
    assert error.exit_code == ExitCode.UNREACHABLE
    assert "words that CORTEX does not use" in error.message


def test_a_surprise_is_one_sentence_and_no_traceback(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert report(ZeroDivisionError("oops"), as_json=False) == ExitCode.FAILED
    said = capsys.readouterr().err
    assert "ZeroDivisionError: oops" in said
    assert "MNEMOS_DEBUG=1" in said
    monkeypatch.setenv("MNEMOS_DEBUG", "1")
    with pytest.raises(ZeroDivisionError):
        report(ZeroDivisionError("oops"), as_json=False)


def test_a_hint_and_a_code_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    error: CliError = Conflict("It is there.", hint="use --replace")
    assert report(error, as_json=True) == ExitCode.CONFLICT
    told = json.loads(capsys.readouterr().err)
    assert told == {
        "error": {"code": "conflict", "message": "It is there.", "hint": "use --replace"}
    }


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts_name_the_command(shell: str) -> None:
    result = CliRunner().invoke(cli, ["completion", shell])
    assert result.exit_code == 0
    assert "_MNEMOS_COMPLETE" in result.stdout


def test_versions_are_json() -> None:
    result = CliRunner().invoke(cli, ["version", "-o", "json"])
    assert set(json.loads(result.stdout)) >= {"mnemos", "python", "torch", "transformers"}
