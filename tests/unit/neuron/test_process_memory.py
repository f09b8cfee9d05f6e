"""What processes hold of memory, measured on real ones."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from neuron.utils.process_memory import child_pids, private_bytes

MIB = 1024 * 1024
HOLD = "import sys; held = bytearray(b'x') * (int(sys.argv[1]) << 20); print(flush=True); input()"
MAP = (
    "import mmap, sys; file = open(sys.argv[1], 'rb'); "
    "held = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ); touched = sum(held[::4096]); "
    "print(flush=True); input()"
)
PARENT = (
    "import subprocess, sys; "
    "child = subprocess.Popen([sys.executable, '-c', *sys.argv[1:]], stdout=subprocess.PIPE); "
    "print(child.stdout.readline(), flush=True); input()"
)


@contextmanager
def running(*arguments: str) -> Iterator[int]:
    """A Python process that has said that it is ready."""
    command = [sys.executable, "-c", *arguments]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    with process:
        assert process.stdout is not None
        assert process.stdout.readline()
        yield process.pid
        process.kill()


def test_what_a_process_allocated_is_counted() -> None:
    with running(HOLD, "0") as small, running(HOLD, "64") as large:
        assert 60 * MIB < private_bytes(large) - private_bytes(small) < 70 * MIB


def test_a_mapped_file_is_not_its_own(tmp_path: Path) -> None:
    file = tmp_path / "weights"
    file.write_bytes(b"x" * 64 * MIB)
    with running(HOLD, "0") as small, running(MAP, str(file)) as mapping:
        assert private_bytes(mapping) - private_bytes(small) < 16 * MIB


def test_descendants_count_too() -> None:
    with running(PARENT, PARENT, HOLD, "64") as grandparent:
        family = [grandparent, *(children := child_pids(grandparent)), *child_pids(children[0])]
        assert len(family) == 3
        assert private_bytes(grandparent) > private_bytes(children[0]) > 64 * MIB


def test_a_process_that_is_gone_holds_nothing() -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    assert private_bytes(process.pid) == 0
    assert child_pids(process.pid) == []


def test_a_zombie_holds_nothing() -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert private_bytes(process.pid) == 0
    process.wait()


def test_the_look_is_cheap() -> None:
    began = time.perf_counter()
    for _ in range(50):
        private_bytes(os.getpid())
    assert (time.perf_counter() - began) / 50 < 0.02


def test_processes_that_come_and_go_disturb_nothing() -> None:
    churn = "import subprocess; print(flush=True)\nwhile True: subprocess.run(['true'])"
    with running(churn) as pid:
        deadline = time.monotonic() + 0.3
        while time.monotonic() < deadline:
            assert private_bytes(pid) > 0
