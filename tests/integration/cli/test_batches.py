"""`mnemos batches` against a real CORTEX whose worker is the test's hand."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from batch_tools import answer_all, line
from click.testing import CliRunner, Result
from cortex_tools import Cortex
from openai_tools import cortex_by_hand
from structlog.testing import capture_logs

from mnemos.cli.errors import ExitCode
from mnemos.cli.main import cli


@pytest.fixture
async def cortex(tmp_path: Path) -> AsyncIterator[Cortex]:
    with capture_logs():  # a command's output is this process's: its server says nothing there
        async with cortex_by_hand(tmp_path) as cortex:
            yield cortex


async def mnemos(cortex: Cortex, *words: str) -> Result:
    environment = {"MNEMOS_CORTEX_URL": cortex.server.http_url, "COLUMNS": "200"}
    return await asyncio.to_thread(CliRunner(env=environment).invoke, cli, ["batches", *words])


async def test_a_batch_from_its_file_to_its_answers_and_what_failed_again(
    cortex: Cortex, tmp_path: Path
) -> None:
    lines = [line("one"), line("fail-1"), line("two")]
    asked = tmp_path / "asked.jsonl"
    asked.write_text("\n".join(map(json.dumps, lines)))
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(
            mnemos(cortex, "create", str(asked), "--metadata", "run=7", "--wait")
        )
        await answer_all(cortex, 3)
    created = waiting.result()
    assert created.exit_code == ExitCode.FAILED, "a line failed"
    assert "3, 2 answered, 1 failed" in created.stdout
    assert "completed: 3/3 lines, 1 failed" in created.stderr
    listed = await mnemos(cortex, "list", "-o", "name")
    [batch_id] = listed.stdout.split()
    assert f"id                 {batch_id}" in created.stdout
    assert batch_id in (await mnemos(cortex, "list")).stdout

    answers = tmp_path / "answers.jsonl"
    assert (await mnemos(cortex, "results", batch_id, "--to", str(answers))).exit_code == 0
    told = [json.loads(each) for each in answers.read_text().splitlines()]
    assert {each["custom_id"] for each in told} == {"one", "two"}
    failed = await mnemos(cortex, "results", batch_id, "--errors")
    assert [json.loads(each)["custom_id"] for each in failed.stdout.splitlines()] == ["fail-1"]

    again = await mnemos(cortex, "retry", batch_id, "-o", "json")
    second = json.loads(again.stdout)
    assert (second["retry_of"], second["metadata"]) == (batch_id, {"run": "7"})
    stopped = await mnemos(cortex, "cancel", second["id"])
    assert "told to stop" in stopped.stderr
    ended = await mnemos(cortex, "show", second["id"], "--wait", "-o", "json")
    assert (ended.exit_code, json.loads(ended.stdout)["status"]) == (1, "cancelled")


async def test_what_cannot_be_is_said_in_a_sentence(cortex: Cortex, tmp_path: Path) -> None:
    asked = tmp_path / "asked.jsonl"
    asked.write_text('{"url": "/v1/none"}\n')
    for words, status, sentence in [
        (["create", str(asked)], ExitCode.USAGE, "names no endpoint"),
        (["show", "batch_none"], ExitCode.NOT_FOUND, "There is no batch batch_none"),
        (["results", "batch_none"], ExitCode.NOT_FOUND, "There is no batch batch_none"),
        (["retry", "batch_none"], ExitCode.NOT_FOUND, "There is no batch batch_none"),
        (["deliveries"], ExitCode.OK, "There is none."),
        (["list"], ExitCode.OK, "There is no batch."),
    ]:
        result = await mnemos(cortex, *words)
        assert result.exit_code == status, result.output
        assert sentence in result.stderr
