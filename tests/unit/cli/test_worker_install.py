"""`mnemos worker install`: the unit and the settings, and nothing of the machine's own."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from mnemos.cli.main import cli

PACKAGED = Path(__file__).parents[3] / "deploy" / "systemd" / "neuron-worker.service"
PYTHON = "/opt/elsewhere/bin/python"


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    return Run(monkeypatch, tmp_path)


class Run:
    def __init__(self, patch: pytest.MonkeyPatch, root: Path) -> None:
        self._patch = patch
        self.root = root
        self.unit = root / "etc/systemd/system/neuron-worker.service"
        self.settings = root / "etc/mnemos/neuron-worker.env"

    def __call__(self, *words: str, python: str = PYTHON, **variables: str) -> Result:
        for name, value in variables.items():
            self._patch.setenv(name, value)
        command = ["worker", "install", "--root", str(self.root), "--python", python, *words]
        return CliRunner().invoke(cli, command)


def test_the_files_are_written_and_kept(run: Run) -> None:
    first = run(NEURON_CORTEX_TOKEN='a "b" $c', NEURON_CORTEX_GRPC_URL="cortex:9090", OTHER="no")
    assert first.exit_code == 0, first.output
    packaged = PACKAGED.read_text()
    assert run.unit.read_text() == packaged.replace("/opt/mnemos/bin/python", PYTHON) != packaged
    said = run.settings.read_text()
    assert 'NEURON_CORTEX_TOKEN="a \\"b\\" \\$c"\n' in said
    assert "NEURON_CORTEX_GRPC_URL=cortex:9090\n" in said
    assert "OTHER" not in said
    assert stat.S_IMODE(run.settings.stat().st_mode) == 0o600
    again = run(NEURON_CORTEX_GRPC_URL="other:9090")
    assert again.exit_code == 0
    assert run.settings.read_text() == said
    assert run("--replace").exit_code == 0
    assert "NEURON_CORTEX_GRPC_URL=other:9090\n" in run.settings.read_text()


def test_another_unit_is_not_overwritten(run: Run) -> None:
    assert run().exit_code == 0
    other = run(python="/opt/third/bin/python")
    assert other.exit_code == 6
    assert PYTHON in run.unit.read_text()


@pytest.mark.parametrize(
    ("python", "variables"),
    [
        ("/home/me/.venv/bin/python", {}),
        ("bin/python", {}),
        ("/opt/a b/python", {}),
        (PYTHON, {"NEURON_WORKER_TAGS": "a=b\nNEURON_ALLOW_PICKLE=true"}),
    ],
)
def test_what_cannot_be_writes_nothing(run: Run, python: str, variables: dict[str, str]) -> None:
    refused = run(python=python, **variables)
    assert refused.exit_code == 2, refused.output
    assert list(run.root.iterdir()) == []


def test_print_changes_nothing(run: Run) -> None:
    shown = run("--print", NEURON_MAX_CONCURRENT_JOBS="7")
    assert "ExecStart=" in shown.output
    assert "NEURON_MAX_CONCURRENT_JOBS=7" in shown.output
    assert list(run.root.iterdir()) == []
