"""The commands against a serving CORTEX: what they print and how they exit."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from fake_platform import FakeCortex, serving, until

from mnemos.cli.main import cli


@pytest.fixture
def cortex() -> FakeCortex:
    fake = FakeCortex()
    fake.known_models = {"smollm2", "tiny"}
    return fake


@pytest.fixture
async def url(cortex: FakeCortex) -> AsyncIterator[str]:
    async with serving(cortex) as address:
        yield address


async def mnemos(url: str, *words: str) -> Result:
    """Run a command in a thread: it has an event loop of its own."""
    environment = {"MNEMOS_CORTEX_URL": url, "COLUMNS": "200"}
    return await asyncio.to_thread(CliRunner(env=environment).invoke, cli, list(words))


async def spawn(url: str, *words: str) -> Process:
    """Run a command as a process of its own, for signals."""
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "mnemos.cli",
        *words,
        stdout=PIPE,
        stderr=PIPE,
        env={**os.environ, "MNEMOS_CORTEX_URL": url},
    )


async def test_submit_prints_the_id_alone_on_stdout(cortex: FakeCortex, url: str) -> None:
    result = await mnemos(url, "jobs", "submit", "--prompt", "Hi", "--max-tokens", "4")
    assert result.exit_code == 0
    job = cortex.jobs[result.stdout.strip()]
    assert job["input"] == {"prompt": "Hi", "parameters": {"max_tokens": 4}}
    assert "Submitted to smollm2:135m-instruct. Watch it with: mnemos jobs watch" in result.stderr


async def test_submit_and_wait_prints_the_answer(cortex: FakeCortex, url: str) -> None:
    result = await mnemos(url, "jobs", "submit", "--prompt", "Hi", "--wait")
    assert (result.exit_code, result.stdout) == (0, "echo: Hi\n")


async def test_a_failed_job_is_mirrored_by_the_exit_status(cortex: FakeCortex, url: str) -> None:
    cortex.fail_prompts = {"Hi"}
    result = await mnemos(url, "jobs", "submit", "--prompt", "Hi", "--wait")
    assert result.exit_code == 1
    assert "failed: Too big. (out_of_memory)" in result.stderr


async def test_an_unknown_model_is_not_found(url: str) -> None:
    result = await mnemos(url, "jobs", "submit", "--prompt", "Hi", "--model", "nope")
    assert result.exit_code == 3
    assert "There is no such model." in result.stderr


async def test_listings_page_through_everything(cortex: FakeCortex, url: str) -> None:
    for number in range(12):
        await cortex.submit({"model": {"family": "tiny"}, "input": _prompt(f"p{number}")})
    names = (await mnemos(url, "jobs", "list", "-o", "name", "--limit", "7")).stdout.split()
    assert len(names) == 7
    everything = await mnemos(url, "jobs", "list", "--all", "-o", "jsonl")
    listed = [json.loads(line)["job_id"] for line in everything.stdout.splitlines()]
    assert listed == list(reversed(cortex.jobs))
    table = (await mnemos(url, "jobs", "list", "--status", "failed")).stderr
    assert "No job fits." in table


async def test_show_says_why_a_job_waits(cortex: FakeCortex, url: str) -> None:
    cortex.hold = True
    job, _ = await cortex.submit({"model": {"family": "tiny"}, "input": _prompt("Hi")})
    result = await mnemos(url, "jobs", "show", job["job_id"])
    assert result.exit_code == 0
    assert "no worker is registered" in result.stdout
    shown = await mnemos(url, "jobs", "show", job["job_id"], "-o", "json")
    assert json.loads(shown.stdout)["job_id"] == job["job_id"]


async def test_a_missing_job_is_3_and_a_wrong_state_is_6(cortex: FakeCortex, url: str) -> None:
    missing = await mnemos(url, "jobs", "show", "job_nope", "-o", "json")
    assert missing.exit_code == 3
    assert json.loads(missing.stderr)["error"]["code"] == "job_not_found"
    job, _ = await cortex.submit({"model": {"family": "tiny"}, "input": _prompt("Hi")})
    assert (await mnemos(url, "jobs", "cancel", job["job_id"])).exit_code == 6
    both = await mnemos(url, "jobs", "cancel", "job_nope", job["job_id"])
    assert both.exit_code == 6
    assert "job_nope: There is no job" in both.stderr


async def test_watch_prints_every_token_once_over_a_cut_stream(
    cortex: FakeCortex, url: str
) -> None:
    job, _ = await cortex.submit({"model": {"family": "tiny"}, "input": _prompt("Hi")})
    words = ["Ein ", "Apfel\u2028", "fällt\n", "\r", "🍎", "."]
    cortex.tokens[job["job_id"]] = words
    cortex.cut_stream_after = 3
    process = await spawn(url, "jobs", "watch", job["job_id"])
    stdout, _ = await process.communicate()
    assert stdout.decode() == "".join(words) + "\n"
    assert process.returncode == 0


async def test_chat_answers_one_question(cortex: FakeCortex, url: str) -> None:
    process = await spawn(url, "chat", "Who are you?", "--system", "Be brief.")
    _, stderr = await process.communicate()
    assert process.returncode == 0, stderr
    (job,) = cortex.jobs.values()
    assert job["input"]["parameters"] == {"stream": True}
    assert [turn["role"] for turn in job["input"]["messages"]] == ["system", "user"]


async def submitted(cortex: FakeCortex, url: str, *words: str) -> dict[str, Any]:
    """Submit a job with these flags; return it as CORTEX was given it."""
    result = await mnemos(url, "jobs", "submit", *words)
    assert result.exit_code == 0, result.stderr
    return cortex.jobs[result.stdout.strip()]


async def test_what_an_answer_may_be_is_said_by_flags(
    cortex: FakeCortex, url: str, tmp_path: Path
) -> None:
    schema = tmp_path / "schema.json"
    schema.write_text('{"type": "object"}')
    flags = ("--prompt", "Hi", "--json-schema", str(schema), "--adapter", "style:1")
    job = await submitted(cortex, url, *flags, "-n", "3", "--logprobs", "0")
    assert job["input"]["parameters"] == {
        "json_schema": {"type": "object"},
        "adapter": "style:1",
        "n": 3,
        "logprobs": 0,
    }
    job = await submitted(cortex, url, "--prompt", "Hi", "--choice", "yes", "--choice", "no")
    assert job["input"]["parameters"] == {"choice": ["yes", "no"]}
    job = await submitted(cortex, url, "--prompt", "Hi", "--regex", "a+")
    assert job["input"]["parameters"] == {"regex": "a+"}
    job = await submitted(cortex, url, "--prompt", "Hi", "--target", "Ho")
    assert job["input"]["parameters"] == {"target": "Ho"}


async def test_rows_come_from_a_file(cortex: FakeCortex, url: str, tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text('"a"\n\n{"prompt": "b", "reference": "c"}\n')
    job = await submitted(cortex, url, "--inputs", str(file))
    assert job["job_type"] == "batch_inference"
    assert job["input"]["inputs"] == ["a", {"prompt": "b", "reference": "c"}]
    flags = ("--inputs", str(file), "--job-type", "evaluation", "--metric", "f1")
    job = await submitted(cortex, url, *flags)
    assert (job["job_type"], job["input"]["parameters"]) == ("evaluation", {"metrics": ["f1"]})
    shown = await mnemos(url, "jobs", "show", job["job_id"])
    assert '2 rows, the first: "a"' in shown.stdout
    assert '0  {"result": "a"}\n1  {"result": {"prompt": "b"' in shown.stdout
    listed = await mnemos(url, "jobs", "list")
    assert "evaluation" in listed.stdout
    assert "batch_inference" in listed.stdout


@pytest.mark.parametrize(
    ("content", "flags", "words"),
    [
        ('"a"', ["--prompt", "b"], "Give either --prompt or --inputs."),
        (None, [], "Give either --prompt or --inputs."),
        ('"a"\nnot json', [], "line 2: not JSON"),
        ("\n", [], "holds no row"),
    ],
)
async def test_rows_that_make_no_job_are_2(
    url: str, tmp_path: Path, content: str | None, flags: list[str], words: str
) -> None:
    file = tmp_path / "rows.jsonl"
    if content is not None:
        file.write_text(content)
        flags = [*flags, "--inputs", str(file)]
    result = await mnemos(url, "jobs", "submit", *flags)
    assert result.exit_code == 2
    assert words in result.stderr


async def test_a_schema_that_is_no_json_is_2(url: str, tmp_path: Path) -> None:
    file = tmp_path / "schema.json"
    for content in ("{", "[]"):
        file.write_text(content)
        words = ("jobs", "submit", "--prompt", "a", "--json-schema", str(file))
        assert (await mnemos(url, *words)).exit_code == 2


async def test_watch_counts_rows(cortex: FakeCortex, url: str) -> None:
    body = {"model": {"family": "tiny"}, "job_type": "batch_inference"}
    job, _ = await cortex.submit({**body, "input": {"inputs": ["a", "b"], "parameters": {}}})
    cortex.rows[job["job_id"]] = [1, 0]
    result = await mnemos(url, "jobs", "watch", job["job_id"])
    assert "[1 row done]" in result.stderr
    assert result.stdout == '0  {"result": "a"}\n1  {"result": "b"}\n'


async def test_show_tells_what_a_stopped_job_had_and_which_engines_died(
    cortex: FakeCortex, url: str
) -> None:
    job, _ = await cortex.submit({"model": {"family": "tiny"}, "input": _prompt("Hi")})
    job.update(status="cancelled", result="Once upon", engine_crashes=1)
    shown = await mnemos(url, "jobs", "show", job["job_id"])
    assert "It had got to:\nOnce upon\n" in shown.stdout
    assert "1 died under this job" in shown.stdout


async def test_workers_say_what_they_lack_and_what_they_have_loaded(
    cortex: FakeCortex, url: str
) -> None:
    loaded = {"family": "tiny", "version": "1", "runtime": "transformers"}
    cortex.workers = [
        {
            "worker_id": "wrk_a",
            "status": "error",
            "status_reason": "no disk",
            "hostname": "host",
            "capabilities": {
                "supported_runtimes": ["transformers"],
                "unavailable_runtimes": {"vllm": "no CUDA"},
                "max_concurrent_jobs": 2,
            },
            "models": [{**loaded, "load_seconds": 3.24, "memory_mb": 300, "active_jobs": 1}],
            "total_jobs_completed": 0,
            "total_jobs_failed": 0,
            "last_heartbeat": "2026-01-01T00:00:00Z",
            "registered_at": "2026-01-01T00:00:00Z",
        }
    ]
    listed = (await mnemos(url, "workers", "list")).stdout
    assert "no disk; no vllm: no CUDA" in listed
    shown = (await mnemos(url, "workers", "show", "wrk_a")).stdout.splitlines()
    said = [" ".join(line.split()) for line in shown]
    assert "because no disk" in said
    assert "no vllm no CUDA" in said
    assert "tiny:1 transformers 3.2s 300 MB 1" in said


async def test_workers_that_are_not_there(url: str) -> None:
    assert "No worker is registered" in (await mnemos(url, "workers", "list")).stderr
    assert (await mnemos(url, "workers", "show", "wrk_x")).exit_code == 3


async def test_ctrl_c_stops_a_run_and_the_same_command_continues(
    cortex: FakeCortex, url: str, tmp_path: Path
) -> None:
    source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text("".join(f'{{"id": "q{n}", "prompt": "p{n}"}}\n' for n in range(60)))
    words = ("run", str(source), "--model", "tiny", "-o", str(out), "--concurrency-window", "20")
    cortex.hold = True
    process = await spawn(url, *words)
    await cortex.wait_for_jobs(20)
    for job in list(cortex.jobs.values())[:9]:
        await cortex._finish(job)
    await until(lambda: out.exists() and len(out.read_text().splitlines()) == 9)
    process.send_signal(signal.SIGINT)
    _, stderr = await process.communicate()
    assert process.returncode == 130
    assert "the same command continues" in stderr.decode()
    await cortex.release()
    again = await mnemos(url, *words)
    assert again.exit_code == 0, again.stderr
    ids = [json.loads(line)["id"] for line in out.read_text().splitlines()]
    assert sorted(ids) == sorted(f"q{n}" for n in range(60))
    assert len(cortex.jobs) == 60
    assert "60 of 60 lines answered" in again.stderr


async def test_a_run_with_failures_exits_with_1(
    cortex: FakeCortex, url: str, tmp_path: Path
) -> None:
    source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text('"good"\n{broken\n')
    result = await mnemos(url, "run", str(source), "-m", "tiny", "-o", str(out))
    assert result.exit_code == 1
    assert "line 2: not JSON" in result.stderr
    assert "1 of 2 lines answered, 1 failed" in result.stderr


def _prompt(text: str) -> dict[str, object]:
    return {"prompt": text, "parameters": {}}


@pytest.mark.parametrize("action", ["cancel", "retry"])
async def test_a_job_action_answers_in_json(cortex: FakeCortex, url: str, action: str) -> None:
    cortex.hold = action == "cancel"
    cortex.fail_prompts = {"p"}
    job, _ = await cortex.submit(
        {"model": {"family": "tiny"}, "input": {"prompt": "p", "parameters": {}}}
    )
    result = await mnemos(url, "jobs", action, job["job_id"], "-o", "json")
    assert result.exit_code == 0, result.stderr
    [told] = json.loads(result.stdout)["jobs"]
    assert told["job_id"] == job["job_id"]
    assert result.stderr == ""


async def test_a_job_action_tells_each_failure_in_json(cortex: FakeCortex, url: str) -> None:
    cortex.hold = True
    job, _ = await cortex.submit(
        {"model": {"family": "tiny"}, "input": {"prompt": "p", "parameters": {}}}
    )
    result = await mnemos(url, "jobs", "cancel", "job_nope", job["job_id"], "-o", "json")
    assert result.exit_code == 3
    assert len(json.loads(result.stdout)["jobs"]) == 1
    assert json.loads(result.stderr)["error"]["code"] == "job_not_found"


async def test_a_failed_job_is_told_in_json(cortex: FakeCortex, url: str) -> None:
    cortex.fail_prompts = {"p"}
    result = await mnemos(url, "jobs", "submit", "--prompt", "p", "--wait", "-o", "json")
    assert result.exit_code == 1
    assert json.loads(result.stdout)["status"] == "failed"
    assert json.loads(result.stderr)["error"]["code"] == "out_of_memory"


async def test_text_that_is_not_unicode_is_refused_in_a_sentence(url: str) -> None:
    for words in (
        ["jobs", "submit", "--prompt", "a\udcff"],
        ["jobs", "show", "a\udcff"],
        ["chat", "a\udcff"],
    ):
        result = await mnemos(url, *words)
        assert result.exit_code == 2
        assert "not Unicode" in result.stderr


async def test_an_empty_question_is_wrong_usage(url: str) -> None:
    assert (await mnemos(url, "chat", " ")).exit_code == 2


async def test_another_server_at_the_address_is_named(url: str) -> None:
    result = await mnemos(url, "jobs", "list", "--cortex-url", f"{url}/elsewhere")
    assert result.exit_code == 5
    assert "is not CORTEX" in result.stderr
    result = await mnemos(url, "models", "list", "--genome-url", url)
    assert result.exit_code == 5
    assert "is not GENOME" in result.stderr


@pytest.mark.parametrize("out", ["-", "/dev/null"])
async def test_answers_need_a_file(url: str, tmp_path: Path, out: str) -> None:
    source = tmp_path / "in.jsonl"
    await asyncio.to_thread(source.write_text, '"Hi"\n')
    result = await mnemos(url, "run", str(source), "-m", "tiny", "-o", out)
    assert result.exit_code == 2
    assert "is no file" in result.stderr
    assert "the same command continues" not in result.stderr
