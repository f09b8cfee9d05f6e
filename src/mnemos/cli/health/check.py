"""One finding, and how a check runs that may hang or die."""

from __future__ import annotations

import asyncio
import sys
from asyncio.subprocess import DEVNULL, PIPE
from enum import StrEnum
from typing import Any, NamedTuple


class Verdict(StrEnum):
    """How bad a finding is; only `fail` makes `mnemos doctor` exit with 1."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


class Finding(NamedTuple):
    """What was looked at, how it is, and what to do about it."""

    check: str
    verdict: Verdict
    detail: str
    fix: str = ""

    def as_json(self) -> dict[str, Any]:
        """For machines."""
        return {
            "check": self.check,
            "verdict": str(self.verdict),
            "detail": self.detail,
            "fix": self.fix or None,
        }


class Outcome(NamedTuple):
    """How a child ended: its status (None: it had to be killed) and its last line."""

    status: int | None
    last_line: str


async def in_child(code: str, timeout_seconds: float) -> Outcome:
    """Run Python code in a process of its own: an import can kill or hang the one it runs in."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, stdin=DEVNULL, stdout=PIPE, stderr=asyncio.subprocess.STDOUT
    )
    try:
        async with asyncio.timeout(timeout_seconds):
            output, _ = await process.communicate()
    except TimeoutError:
        return Outcome(None, "")
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    lines = output.decode("utf-8", "replace").strip().splitlines()
    return Outcome(process.returncode, lines[-1] if lines else "")
