"""What an operator does by `mnemos` to a real CORTEX: dead letters, and jobs of long ago."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from cortex_tools import Cortex, eventually, running_cortex

from mnemos.cli.errors import ExitCode
from mnemos.cli.main import cli
from mnemos.cortex.settings import CortexSettings
from mnemos.protocol.v1 import cortex_pb2 as pb


@pytest.fixture
async def cortex(tmp_path: Path) -> AsyncIterator[Cortex]:
    settings = CortexSettings(data_dir=tmp_path / "cortex", http_port=0, grpc_port=0)
    async with running_cortex(settings) as cortex:
        yield cortex


async def mnemos(cortex: Cortex, *words: str) -> Result:
    environment = {"MNEMOS_CORTEX_URL": cortex.server.http_url, "COLUMNS": "200"}
    return await asyncio.to_thread(CliRunner(env=environment).invoke, cli, list(words))


async def fail(cortex: Cortex, code: pb.ErrorCode.ValueType) -> str:
    job_id = await cortex.hold(retry_config={"max_retries": 0}, group="g")
    failed = pb.JobResult(
        job_id=job_id,
        attempt=1,
        status=pb.JOB_STATUS_FAILED,
        error="the engine died",
        error_details=pb.ErrorDetails(code=code),
    )
    await cortex.report(failed)
    return job_id


async def test_dead_letters_are_listed_with_code_and_error(cortex: Cortex) -> None:
    crashed, _ = (
        await fail(cortex, pb.ERROR_CODE_ENGINE_CRASHED),
        await fail(cortex, pb.ERROR_CODE_INTERNAL),
    )
    listed = await mnemos(cortex, "jobs", "list", "--status", "failed")
    assert "engine_crashed: the engine died" in listed.stdout
    assert "internal: the engine died" in listed.stdout
    filtered = await mnemos(cortex, "jobs", "list", "--error-code", "engine_crashed", "-o", "name")
    assert filtered.stdout.split() == [crashed]


async def test_redrive_counts_first_and_then_queues_again(cortex: Cortex) -> None:
    job_id = await fail(cortex, pb.ERROR_CODE_ENGINE_CRASHED)
    await fail(cortex, pb.ERROR_CODE_INTERNAL)
    filters = ("--error-code", "engine_crashed", "--model", "tiny", "--group", "g")
    words = ("jobs", "redrive", *filters, "--since", "2h")
    dry = await mnemos(cortex, *words, "--dry-run")
    assert (dry.exit_code, dry.stderr) == (0, "1 job would be queued again.\n")
    assert (await cortex.job(job_id))["status"] == "failed"
    done = await mnemos(cortex, *words, "-o", "json")
    assert json.loads(done.stdout) == {"jobs": 1, "dry_run": False}
    assert (await cortex.job(job_id))["status"] == "pending"
    again = await mnemos(cortex, *words)
    assert (again.exit_code, again.stderr) == (0, "No job fits.\n")
    everything = await mnemos(cortex, "jobs", "redrive", "--yes")
    assert everything.stderr == "1 job queued again.\n"


async def test_redrive_goes_on_until_all_is_done(
    cortex: Cortex, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mnemos.cortex.api.redrive.BUDGET_SECONDS", 0.0)
    batch = {"jobs": [cortex.body(group="g") for _ in range(250)]}
    await cortex.http.post("/api/v1/jobs/batch", json=batch)
    await cortex.http.post("/api/v1/groups/g/cancel")
    limited = await mnemos(cortex, "jobs", "redrive", "--status", "cancelled", "--limit", "120")
    assert "100/120 queued again" in limited.stderr
    assert "120 jobs queued again." in limited.stderr
    rest = await mnemos(cortex, "jobs", "redrive", "--status", "cancelled")
    assert "130 jobs queued again." in rest.stderr


async def test_a_person_is_asked_first(cortex: Cortex, monkeypatch: pytest.MonkeyPatch) -> None:
    job_id = await fail(cortex, pb.ERROR_CODE_INTERNAL)
    monkeypatch.setattr("mnemos.cli.commands.jobs.stdin_is_a_terminal", lambda: True)
    environment = {"MNEMOS_CORTEX_URL": cortex.server.http_url}
    runner = CliRunner(env=environment)
    no = await asyncio.to_thread(runner.invoke, cli, ["jobs", "redrive"], input="n\n")
    assert "Queue 1 job again?" in no.stderr
    assert no.exit_code == ExitCode.INTERRUPTED
    assert (await cortex.job(job_id))["status"] == "failed"
    yes = await asyncio.to_thread(runner.invoke, cli, ["jobs", "redrive"], input="y\n")
    assert yes.exit_code == 0
    assert (await cortex.job(job_id))["status"] == "pending"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--status", "completed"], "is not one of"),
        (["--since", "yesterday"], "is no time"),
        (["--limit", "0"], "not in the range"),
    ],
)
async def test_a_filter_that_is_none_is_refused(
    cortex: Cortex, words: list[str], told: str
) -> None:
    refused = await mnemos(cortex, "jobs", "redrive", *words)
    assert refused.exit_code == 2
    assert told in refused.stderr


async def test_a_job_whose_log_is_gone_is_shown_and_watched(tmp_path: Path) -> None:
    settings = CortexSettings(
        data_dir=tmp_path / "cortex", http_port=0, grpc_port=0, stream_retention_seconds=0.2
    )
    async with running_cortex(settings) as cortex:
        job_id = await cortex.hold()
        await cortex.chunks(job_id, "H", "i")
        await cortex.complete(job_id)

        async def is_gone() -> bool:
            stream = await cortex.http.get(f"/api/v1/jobs/{job_id}/stream")
            return stream.status_code == 410

        await eventually(is_gone, "the log is pruned")
        shown = await mnemos(cortex, "jobs", "show", job_id)
        assert shown.exit_code == 0
        assert shown.stdout.rstrip().endswith("Hi")
        watched = await mnemos(cortex, "jobs", "watch", job_id)
        assert (watched.exit_code, watched.stdout) == (0, "Hi\n")
