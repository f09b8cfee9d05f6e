"""`mnemos run` as a person types it."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest
from stack import MNEMOS, Stack, read_jsonl, wait_until
from tiny_stack import TINY

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

PROMPTS = 200


def write_prompts(path: Path, count: int) -> Path:
    lines = [
        json.dumps(
            {
                "id": f"p{index}",
                "prompt": f"prompt number {index}",
                "parameters": {"max_tokens": 100, "ignore_eos": True},
            }
        )
        for index in range(count)
    ]
    path.write_text("\n".join(lines) + "\n")
    return path


def test_interrupted_half_way_and_run_again_gives_every_id_once(
    stack: Stack, tmp_path: Path
) -> None:
    stack.start_ready_worker(max_concurrent_jobs=8)
    prompts = write_prompts(tmp_path / "prompts.jsonl", PROMPTS)
    answers = tmp_path / "answers.jsonl"
    command = ["run", str(prompts), "--model", TINY, "-o", str(answers)]
    first = stack.spawn("run", [*MNEMOS, *command], stack.cli_environment())
    wait_until(
        lambda: answers.exists() and len(answers.read_text().splitlines()) >= PROMPTS // 4,
        what="a quarter of the answers",
    )

    first.signal(signal.SIGINT)

    assert first.wait() == 130, first.tail()
    half = len(read_jsonl(answers))
    assert half < PROMPTS, "the run ended before it was interrupted"
    stack.mnemos(*command, seconds=200)
    written = read_jsonl(answers)
    assert sorted(answer["id"] for answer in written) == sorted(f"p{i}" for i in range(PROMPTS))
    assert {answer["status"] for answer in written} == {"completed"}
    jobs = stack.get("/api/v1/stats")["jobs"]
    assert sum(jobs.values()) == PROMPTS, "running again submitted a prompt a second time"


def test_killed_in_the_middle_of_a_line_and_run_again(stack: Stack, tmp_path: Path) -> None:
    stack.start_ready_worker(max_concurrent_jobs=8)
    prompts = write_prompts(tmp_path / "prompts.jsonl", 40)
    answers = tmp_path / "answers.jsonl"
    command = ["run", str(prompts), "--model", TINY, "-o", str(answers)]
    first = stack.spawn("run", [*MNEMOS, *command], stack.cli_environment())
    wait_until(lambda: answers.exists() and answers.read_text().count("\n") > 3, what="answers")
    first.kill()
    with answers.open("a") as file:
        file.write('{"id": "p39", "status": "comp')

    stack.mnemos(*command, seconds=200)

    assert sorted(answer["id"] for answer in read_jsonl(answers)) == sorted(
        f"p{i}" for i in range(40)
    )


def test_a_malformed_line_is_named_and_the_others_run(stack: Stack, tmp_path: Path) -> None:
    stack.start_ready_worker()
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text(
        '{"id": "a", "prompt": "one", "parameters": {"max_tokens": 4}}\n'
        '{"id": "b", "prompt": \n'
        '{"id": "c", "prompt": "three", "parameters": {"max_tokens": 0}}\n'
        '{"id": "d", "prompt": "four", "parameters": {"temperature": 3}}\n'
        '{"id": "e", "prompt": ""}\n'
        '{"id": "f", "prompt": "six", "parameters": {"max_tokens": 4}}\n'
    )
    answers = tmp_path / "answers.jsonl"

    done = stack.mnemos("run", str(prompts), "--model", TINY, "-o", str(answers), status=1)

    written = read_jsonl(answers)
    assert len(written) == 6
    good = {answer["id"] for answer in written if answer["status"] == "completed"}
    assert good == {"a", "f"}
    assert "line 2" in done.stderr
    assert all(a["error"]["code"] == "invalid_input" for a in written if a["id"] not in good)


def test_unknown_model(stack: Stack, tmp_path: Path) -> None:
    prompts = write_prompts(tmp_path / "prompts.jsonl", 2)

    done = stack.mnemos(
        "run", str(prompts), "--model", "nobody:1", "-o", str(tmp_path / "out.jsonl"), status=3
    )

    assert "nobody" in done.stderr
    assert "Traceback" not in done.stderr


def test_cortex_not_up(stack: Stack, tmp_path: Path) -> None:
    prompts = write_prompts(tmp_path / "prompts.jsonl", 2)
    stack.processes[0].kill()

    done = stack.mnemos(
        "run", str(prompts), "--model", TINY, "-o", str(tmp_path / "out.jsonl"), status=5
    )

    assert "mnemos up" in done.stderr
    assert "Traceback" not in done.stderr
