"""Spin finds nothing wrong with the lease model, and something wrong when a rule is missing."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

MODEL = Path(__file__).parents[2] / "docs" / "model" / "lease.pml"
MUTANTS = {
    "NO_RESULT_FENCE": (),
    "NO_TOKEN_FENCE": (),
    "LATE_ANY": (),
    "NO_SEQUENCE": (),
    "NO_NEW_ATTEMPT": (),
    "NO_CANCEL_CHECK": (),
    "NO_END_CHECK": (),
    "EARLY_ACK": ("-DTOKENS=1", "-DWORKERS=1"),
    "RESULT_BEFORE_TOKENS": (),
}
"""Rules that can be taken away, and how small a world shows what follows."""

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(autouse=True)
def spin() -> None:
    """Without spin there is nothing to run; CI has it."""
    if not (shutil.which("spin") and shutil.which("gcc")):
        assert "CI" not in os.environ, "CI must have spin and gcc"
        pytest.skip("spin and gcc are not installed")


def check(folder: Path, *options: str) -> tuple[int, int, str]:
    """Have spin look at all states; errors, states, and what it said."""
    subprocess.run(["spin", *options, "-a", MODEL], cwd=folder, check=True)
    compile_it = ["gcc", "-O2", "-w", "-DSAFETY", "-DCOLLAPSE", "-o", "pan", "pan.c"]
    subprocess.run(compile_it, cwd=folder, check=True)
    done = subprocess.run(
        ["./pan", "-E", "-m200000"], cwd=folder, check=True, capture_output=True, text=True
    )
    errors = re.search(r"errors: (\d+)", done.stdout)
    states = re.search(r"(\d+) states, stored", done.stdout)
    assert errors, done.stdout
    assert states, done.stdout
    return int(errors[1]), int(states[1]), done.stdout


def test_no_order_of_events_breaks_a_promise(tmp_path: Path) -> None:
    errors, states, said = check(tmp_path)

    assert errors == 0, said
    assert states > 15_000_000, "the model has become smaller than it was"
    assert "max search depth too small" not in said


@pytest.mark.parametrize("rule", MUTANTS)
def test_every_rule_is_needed(tmp_path: Path, rule: str) -> None:
    errors, _, said = check(tmp_path, f"-D{rule}", *MUTANTS[rule])

    assert errors == 1, said
    assert "assertion violated" in said


def test_the_model_knows_late_completions(tmp_path: Path) -> None:
    errors, _, said = check(tmp_path, "-DCLAIM_NEVER_LATE")

    assert errors == 1, said
    assert "assertion violated (job.state==" in said


def test_every_rule_of_the_model_is_tried() -> None:
    text = MODEL.read_text()
    named = set(re.findall(r"^#if(?:n?def) ([A-Z_]+)$", text, re.MULTILINE))

    assert named - {"WORKERS", "ATTEMPTS", "TOKENS", "CLAIM_NEVER_LATE"} == set(MUTANTS)
