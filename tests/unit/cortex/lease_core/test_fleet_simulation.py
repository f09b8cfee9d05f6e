"""Whole fleets, each from a seed, keep every promise whatever goes wrong."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from fleet_simulation import Fleet, Outcome, command

REPOSITORY = Path(__file__).parents[4]
SEEDS = int(os.environ.get("SIMULATION_SEEDS", "200"))
FIRST_SEED = int(os.environ.get("SIMULATION_FIRST_SEED", "0"))
LINES_SHOWN = 30

FAULTS = (
    *("message lost", "message doubled", "message held up", "message cut off"),
    *("worker killed", "worker paused", "worker cut off", "worker drained"),
    *("worker started under its id", "worker started under another id"),
    *("CORTEX crashed", "CORTEX crashed with something uncommitted"),
    *("CORTEX was down for a message", "engine died", "poison killed an engine"),
    "worker killed by a job",
)
CONSEQUENCES = (
    *("completed", "completed late", "late chunks", "restart line"),
    *("attempt went on after another's tokens", "sent again from the outbox"),
    *("lease over", "worker's own lease timer", "Suspect", "Grace", "WorkerGone"),
    *("timeout reported", "Release", "Cancel", "Cancel while held", "RetryByHand"),
    *("stale Renew", "stale Say", "stale Append", "stale Report", "stale Release"),
    *("suspect left for another worker", "parked for lost workers"),
    *("repeated Report", "repeated Cancel", "told to stop, ended by LeaseCheck"),
)


@pytest.mark.timeout(120 + SEEDS)
def test_fleets_keep_every_promise() -> None:
    fired: Counter[str] = Counter()
    jobs = retried = 0
    for seed in range(FIRST_SEED, FIRST_SEED + SEEDS):
        outcome = _run(Fleet(seed), seed)
        fired += outcome.fired
        jobs += outcome.jobs
        retried += outcome.retried

    missing = [what for what in FAULTS + CONSEQUENCES if not fired[what]]
    assert not missing, "these never happened, so the seeds show nothing of them"
    assert retried >= 0.05 * jobs, f"{retried} of {jobs} jobs were tried again"
    assert fired["completed"] >= 0.3 * jobs


def _run(fleet: Fleet, seed: int) -> Outcome:
    try:
        return fleet.run()
    except Exception as error:  # noqa: BLE001  whatever it is, the seed must be told
        last = fleet.trace.splitlines()[-LINES_SHOWN:]
        text = "\n".join([f"seed {seed}: {error!r}", "replay: " + command(seed), *last])
        pytest.fail(text, pytrace=False)


def test_the_same_seed_gives_the_same_trace_to_the_byte() -> None:
    traces = {_replay(seed=7, hash_seed=hash_seed) for hash_seed in ("1", "2")}

    assert len(traces) == 1
    assert len(traces.pop().splitlines()) > 100
    assert _replay(seed=8, hash_seed="1") not in traces


def _replay(seed: int, hash_seed: str) -> bytes:
    script, *options = command(seed).split()[1:]
    done = subprocess.run(
        [sys.executable, script, *options],
        cwd=REPOSITORY,
        env=os.environ | {"PYTHONHASHSEED": hash_seed},
        capture_output=True,
        check=True,
    )
    return done.stdout


def test_a_broken_promise_is_replayed_by_the_command_that_is_printed() -> None:
    script, *options = command(0).split()[1:]
    flawed = [*options, "--flaw", "no grace after a restart", "--last", "20"]
    done = subprocess.run(
        [sys.executable, script, *flawed],
        cwd=REPOSITORY,
        capture_output=True,
        check=False,
        text=True,
    )

    assert done.returncode == 1
    *trace, verdict = done.stdout.splitlines()
    assert len(trace) == 20
    assert "after a restart no lease runs out" in verdict
