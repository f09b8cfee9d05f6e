"""Which runtimes are offered, and the reasons why not."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from neuron.models.runtime import RuntimeType
from neuron.runtimes.interpreter import interpreter_lack
from neuron.runtimes.registry import runtime_availability


def fake_python(folder: Path, script: str) -> str:
    python = folder / "python"
    python.write_text(f"#!/bin/sh\n{script}\n")
    python.chmod(0o755)
    return str(python)


def test_vllm_is_offered_by_the_interpreter_that_has_it(tmp_path: Path) -> None:
    site = tmp_path / "site"
    (site / "vllm").mkdir(parents=True)
    (site / "vllm" / "__init__.py").write_text("raise SystemExit('it was imported')")
    (site / "vllm").chmod(0o755)
    script = f"shift 2; exec {sys.executable} -c \"import sys; sys.path.insert(0, '{site}'); "
    script += 'exec(sys.argv.pop(1))" "$@"'
    assert runtime_availability(RuntimeType.VLLM, fake_python(tmp_path, script)) is None


def test_an_interpreter_without_vllm_is_named_with_what_it_lacks(tmp_path: Path) -> None:
    python = fake_python(tmp_path, f'exec {sys.executable} "$@"')
    reason = runtime_availability(RuntimeType.VLLM, python)
    assert reason == f"the runtime vllm cannot run: {python} lacks vllm"


def test_without_an_interpreter_the_setting_is_named() -> None:
    reason = runtime_availability(RuntimeType.VLLM)
    assert reason is not None
    assert "needs vllm, not installed here" in reason
    assert "NEURON_VLLM_PYTHON" in reason


def test_an_interpreter_that_is_none_is_named(tmp_path: Path) -> None:
    reason = runtime_availability(RuntimeType.VLLM, "/nowhere/bin/python")
    assert reason is not None
    assert "/nowhere/bin/python cannot be started" in reason
    broken = fake_python(tmp_path, "echo out of ink >&2; exit 3")
    reason = runtime_availability(RuntimeType.VLLM, broken)
    assert reason == f"the runtime vllm cannot run: {broken} ended with status 3: out of ink"


def test_an_interpreter_is_asked_once(tmp_path: Path) -> None:
    count = tmp_path / "count"
    python = fake_python(tmp_path, f"echo asked >> {count}; echo vllm")
    for _ in range(3):
        assert interpreter_lack(python, ("vllm",)) == f"{python} lacks vllm"
    assert count.read_text() == "asked\n"


@pytest.mark.parametrize("runtime", [RuntimeType.TRANSFORMERS])
def test_what_is_installed_here_is_offered(runtime: RuntimeType) -> None:
    assert runtime_availability(runtime) is None
