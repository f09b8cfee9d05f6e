"""The processes that vLLM will start: told how to live, heard when they fail, cleared away."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from neuron.runtimes.vllm_engine import child
from neuron.runtimes.vllm_engine.children import ChildFailures
from neuron.runtimes.vllm_engine.scratch import sweep

SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 -- the kernel's name for it
LOGS = """
import logging, runpy, sys
runpy.run_path(sys.argv[1], run_name="__mp_main__")
log = logging.getLogger("engine")
log.error("no exception here")
for words in ("first\\nline", "second"):
    try:
        raise ValueError(words)
    except ValueError:
        log.exception("it failed")
"""


def run_child(script: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", script, child.__file__],
        env={**os.environ, child.PARENT_VARIABLE: str(os.getpid())},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def failures(monkeypatch: pytest.MonkeyPatch) -> ChildFailures:
    monkeypatch.setenv(child.FAILURE_VARIABLE, "")  # restored afterwards
    return ChildFailures()


def test_the_first_exception_that_a_child_logs_is_told(failures: ChildFailures) -> None:
    assert failures.first() is None
    done = run_child(LOGS)
    assert done.returncode == 0, done.stderr
    told = failures.first()
    assert told is not None
    assert (told.type, told.message) == ("ValueError", "first\nline")
    failures.forget()
    assert failures.first() is None
    run_child(LOGS.replace("first", "later"))
    told = failures.first()
    assert told is not None
    assert told.message == "later\nline"


def test_a_child_that_fails_without_end_fills_no_memory(failures: ChildFailures) -> None:
    run_child(LOGS.replace('("first\\nline", "second")', "['x' * 4000] * 100"))
    told = failures.first()
    assert told is not None
    assert told.message == "x" * 4000
    path = Path(os.environ[child.FAILURE_VARIABLE])
    assert path.stat().st_size < 80_000


def test_a_child_whose_parent_is_gone_ends_at_once() -> None:
    done = subprocess.run(
        [sys.executable, "-c", LOGS, child.__file__],
        env={**os.environ, child.PARENT_VARIABLE: "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "it failed" not in done.stderr


def test_only_what_dead_engines_left_is_swept(tmp_path: Path) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    segment = SHARED_MEMORY / f"psm_{os.getpid():x}feed"
    segment.touch()
    bystander = tmp_path / "important"
    bystander.touch()
    left = tmp_path / f"neuron-vllm-{gone.pid}-abc"
    mine = tmp_path / f"neuron-vllm-{os.getpid()}-abc"
    other = tmp_path / "neuron-vllm-notes"
    for folder in (left, mine, other):
        folder.mkdir()
        (folder / "file").touch()
    (left / "shared-memory").write_text(f"{segment.name}\n../..{bystander}\n")
    try:
        sweep(tmp_path)
        assert not segment.exists()
    finally:
        segment.unlink(missing_ok=True)
    assert sorted(tmp_path.iterdir()) == sorted([bystander, mine, other])


def test_notes_are_one_json_line_each(failures: ChildFailures) -> None:
    run_child(LOGS)
    lines = Path(os.environ[child.FAILURE_VARIABLE]).read_text().splitlines()
    assert [json.loads(line)["message"] for line in lines] == ["first\nline", "second"]
