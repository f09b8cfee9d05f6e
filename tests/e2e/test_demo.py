"""`mnemos demo`: the first thing a newcomer types."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import psutil
import pytest
from stack import MNEMOS, read_jsonl

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]


def run_demo(data_dir: Path) -> str:
    done = subprocess.run(
        [*MNEMOS, "demo", "--data-dir", str(data_dir)],
        env={name: value for name, value in os.environ.items() if not name.startswith("NEURON_")},
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout + done.stderr


def left_behind(data_dir: Path) -> list[str]:
    """Return the command lines of processes that still use the directory."""
    found = []
    for process in psutil.process_iter(["cmdline", "environ"]):
        words = [*(process.info["cmdline"] or []), *(process.info["environ"] or {}).values()]
        if process.pid != os.getpid() and any(str(data_dir) in word for word in words):
            found.append(" ".join(process.info["cmdline"] or []))
    return found


def test_demo_twice_answers_paris_and_leaves_nothing_running(tmp_path: Path) -> None:
    data_dir = tmp_path / "demo"

    first = run_demo(data_dir)

    answers = read_jsonl(data_dir / "answers.jsonl")
    assert len(answers) >= 10
    assert {answer["status"] for answer in answers} == {"completed"}
    assert any("Paris" in answer["result"] for answer in answers)
    assert "tokens/s" in first
    assert str(data_dir / "answers.jsonl") in first
    assert left_behind(data_dir) == []

    second = run_demo(data_dir)

    assert "is here already" in second
    assert [a["result"] for a in sorted(answers, key=lambda a: a["id"])] == [
        a["result"] for a in sorted(read_jsonl(data_dir / "answers.jsonl"), key=lambda a: a["id"])
    ], "greedy answers changed"
