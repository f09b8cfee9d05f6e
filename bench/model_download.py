"""A model's files from a store to this machine: our fetch beside the clients that people use.

One file of 2 GiB, 4 of 256 MiB and 40 small ones, fetched by processes one after another: from a
server that gives each connection 90 MB/s, as object stores do, to memory; from a SeaweedFS to
memory; and from it to the disk, until everything is synced. Ours hashes every byte, and the others
none. Each round measures every client, and the median round counts; a ratio is the peer's time
over ours. The sequential client is minio-py's fget_object, file by file.

About 10 GB of /dev/shm and of the folder for temporary files are used (TMPDIR names another one,
which should be on a disk). `--small` takes an eighth of that.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from .downloads import clients, model, seaweed
from .downloads.clients import NEURON, RCLONE, S5CMD, SEQUENTIAL, Run
from .report import Row

ROUNDS = 3
CONNECTION_MB_PER_SECOND = 90
PEAK_MIB = 120.0
LOOP_BLOCK_MS = 50.0

_MEMORY = "/dev/shm"  # noqa: S108 - a folder of its own is made there

Runs = dict[str, list[Run]]


def run() -> list[Row]:
    """Return the figures, and the ratios with their targets."""
    clients.prepare()
    sizes = model.SMALL if os.environ.get("BENCH_SMALL") else model.FULL
    with _folder(_MEMORY) as memory, _folder(None) as disk:
        listed = model.make(memory, sizes)
        with _stand_in(memory) as endpoint:
            throttled = _measured(endpoint, listed, memory, (RCLONE, S5CMD, NEURON))
            # It takes as long as all others together, and hardly varies.
            throttled |= _measured(endpoint, listed, memory, (SEQUENTIAL,), rounds=1)
        everyone = (SEQUENTIAL, RCLONE, S5CMD, NEURON)
        with seaweed.running(disk, memory) as endpoint:
            os.sync()
            plain = _measured(endpoint, listed, memory, everyone)
            durable = _measured(endpoint, listed, disk, everyone, to_disk=True)
    names = ("90 MB/s each", "SeaweedFS", "SeaweedFS, disk")
    results = list(zip(names, (throttled, plain, durable), strict=True))
    rows = [row for name, runs in results for row in _plain_rows(name, runs, sizes.total)]
    rows += [
        _ratio(names[0], throttled, SEQUENTIAL, 6.0),
        _ratio(names[0], throttled, RCLONE, 0.75),
        _ratio(names[1], plain, SEQUENTIAL, 1.0),
        _ratio(names[1], plain, S5CMD, 0.85),
        _ratio(names[2], durable, _fastest(durable), 0.95),
    ]
    ours = [each for _, runs in results for each in runs[NEURON]]
    return rows + _own_rows(ours)


def _measured(
    endpoint: str,
    listed: Path,
    parent: Path,
    names: Sequence[str],
    *,
    rounds: int = ROUNDS,
    to_disk: bool = False,
) -> Runs:
    runs: Runs = {name: [] for name in names}
    for _ in range(rounds):
        for name in names:
            folder = parent / "out"
            folder.mkdir()
            run = clients.download(name, endpoint, listed, folder, to_disk=to_disk)
            runs[name].append(run)
            shutil.rmtree(folder)
            os.sync()  # what one leaves to be written must not slow the next
    return runs


def _plain_rows(where: str, runs: Runs, size: int) -> list[Row]:
    rows = []
    for name, each in runs.items():
        cpu = statistics.median(run.cpu_seconds for run in each)
        spread = (
            f"{cpu:.1f} s of CPU; {min(_rates(each, size)):.0f} to {max(_rates(each, size)):.0f}"
        )
        rows.append(Row(f"{where}: {name}", size / 1e6 / _seconds(each), "MB/s", spread))
    return rows


def _rates(runs: Sequence[Run], size: int) -> list[float]:
    return [size / 1e6 / run.seconds for run in runs]


def _seconds(runs: Sequence[Run]) -> float:
    return statistics.median(run.seconds for run in runs)


def _fastest(runs: Runs) -> str:
    return min((name for name in runs if name != NEURON), key=lambda name: _seconds(runs[name]))


def _ratio(where: str, runs: Runs, peer: str, at_least: float) -> Row:
    ratio = _seconds(runs[peer]) / _seconds(runs[NEURON])
    return Row(f"{where}: to {peer}", ratio, "x", f"at least {at_least:g}", at_least=at_least)


def _own_rows(ours: Sequence[Run]) -> list[Row]:
    peak = max(run.peak_mib for run in ours)
    block = max(run.loop_block_ms for run in ours)
    idle = max(run.idle_block_ms for run in ours)
    return [
        Row("an idle process beside it: late", idle, "ms"),
        Row("peak memory", peak, "MiB", f"under {PEAK_MIB:g}", at_most=PEAK_MIB),
        Row("event loop blocked", block, "ms", f"under {LOOP_BLOCK_MS:g}", at_most=LOOP_BLOCK_MS),
    ]


@contextlib.contextmanager
def _folder(parent: str | None) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir=parent, prefix="bench-", ignore_cleanup_errors=True) as it:
        yield Path(it)


@contextlib.contextmanager
def _stand_in(root: Path) -> Iterator[str]:
    command = [sys.executable, "-m", "bench.downloads.stand_in"]
    process = subprocess.Popen(
        [*command, str(root), str(CONNECTION_MB_PER_SECOND)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        yield f"http://127.0.0.1:{int(process.stdout.readline())}"
    finally:
        process.kill()
        process.wait(30)
