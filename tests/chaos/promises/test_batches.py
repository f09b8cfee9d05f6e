"""Batches whose workers and whose CORTEX are killed: each line ends up in one file, once."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx2
import pytest
from figures import Figures, Scale
from stack import Stack, running_stack
from tiny_llama import build_tiny_llama
from tiny_stack import TINY

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(900)]

CHATS = "/v1/chat/completions"
SECONDS_BETWEEN_KILLS = 4.0
DONE_BETWEEN_KILLS = 0.05
CORTEX_KILLS = 3
ENDED = {"completed", "failed", "cancelled", "expired"}
EXPIRES_IN = "8s"


def request_line(index: int, *, bad: bool) -> str:
    body = {
        "model": TINY,
        "messages": [{"role": "user", "content": f"line {index}"}],
        "max_tokens": 48,
        "temperature": 9 if bad else 0,
        "ignore_eos": True,
    }
    return json.dumps({"custom_id": f"line-{index}", "method": "POST", "url": CHATS, "body": body})


class BatchUnderFire:
    """One batch, and a clock for the next blow."""

    def __init__(self, stack: Stack, lines: int, bad_every: int, window: str) -> None:
        self.stack = stack
        self.lines = lines
        self.bad = 0 if not bad_every else len(range(0, lines, bad_every))
        self.worker_kills = 0
        self.cortex_kills = 0
        self._random = random.Random(5)
        self._next_kill = time.monotonic() + SECONDS_BETWEEN_KILLS
        self._done_at_kill = 0
        self._workers = [stack.start_ready_worker(max_concurrent_jobs=32) for _ in range(2)]
        text = "\n".join(
            request_line(index, bad=bool(bad_every) and index % bad_every == 0)
            for index in range(lines)
        )
        answer = self._sent(
            lambda: httpx2.post(
                f"{stack.cortex_url}/v1/files",
                data={"purpose": "batch"},
                files={"file": ("in.jsonl", text.encode())},
                timeout=60,
            )
        )
        body = {
            "input_file_id": answer["id"],
            "endpoint": CHATS,
            "completion_window": window,
        }
        self.batch_id = self._sent(
            lambda: httpx2.post(f"{stack.cortex_url}/v1/batches", json=body, timeout=30)
        )["id"]

    def seen(self) -> dict[str, Any] | None:
        """The batch, if CORTEX lives."""
        with suppress(httpx2.HTTPError):
            answer = httpx2.get(f"{self.stack.cortex_url}/v1/batches/{self.batch_id}", timeout=5)
            if answer.status_code == 200:
                shown: dict[str, Any] = answer.json()
                return shown
        return None

    def strike(self, done: int) -> None:
        """Kill a worker when it is time and something was done since the last one died.

        Kill CORTEX at each quarter of the way.
        """
        worth_it = done - self._done_at_kill >= self.lines * DONE_BETWEEN_KILLS
        if worth_it and time.monotonic() >= self._next_kill:
            self._done_at_kill = done
            self._next_kill = time.monotonic() + SECONDS_BETWEEN_KILLS
            victim = self._workers.pop(self._random.randrange(len(self._workers)))
            victim.kill()
            self.worker_kills += 1
            self._workers.append(self.stack.start_worker(max_concurrent_jobs=32)[0])
        if self.cortex_kills < CORTEX_KILLS and done * 4 >= self.lines * (self.cortex_kills + 1):
            self.cortex_kills += 1
            platform = [one for one in self.stack.processes if one.name == "up" and one.alive]
            platform[0].kill()
            self.stack.start_platform()

    def cancel(self) -> None:
        """Let it stop."""
        self._sent(
            lambda: httpx2.post(
                f"{self.stack.cortex_url}/v1/batches/{self.batch_id}/cancel", timeout=30
            )
        )

    def lines_of(self, file_id: str | None) -> list[dict[str, Any]]:
        """A file of answers or errors."""
        if file_id is None:
            return []
        url = f"{self.stack.cortex_url}/v1/files/{file_id}/content"
        return [json.loads(line) for line in httpx2.get(url, timeout=60).text.splitlines()]

    def _sent(self, send: Callable[[], httpx2.Response]) -> dict[str, Any]:
        answer = send()
        assert answer.status_code == 200, answer.text
        told: dict[str, Any] = answer.json()
        return told


@pytest.mark.parametrize(
    ("ends_as", "bad_every"),
    [("completed", 0), ("completed", 10), ("cancelled", 10), ("expired", 0)],
)
def test_batches_are_whole_whatever_is_killed(
    tmp_path: Path, scale: Scale, figures: Figures, ends_as: str, bad_every: int
) -> None:
    if not scale.long and (ends_as, bad_every) not in {("completed", 10)}:
        pytest.skip("in the long form only")
    lines = scale.of(5000, 400)
    with running_stack(tmp_path, CORTEX_LEASE_SECONDS="3", CORTEX_MAX_LOST_WORKERS="50") as stack:
        stack.start_platform()
        model = build_tiny_llama(tmp_path / "model", context=512)
        stack.mnemos("models", "push", str(model), "--name", TINY)
        batch = BatchUnderFire(
            stack, lines, bad_every, EXPIRES_IN if ends_as == "expired" else "24h"
        )
        cancelled = False
        while (shown := batch.seen()) is None or shown["status"] not in ENDED:
            if shown is None:
                continue
            done = shown["request_counts"]["completed"]
            batch.strike(done)
            if ends_as == "cancelled" and not cancelled and done * 2 >= lines:
                cancelled = True
                batch.cancel()

        answered = batch.lines_of(shown["output_file_id"])
        failed = batch.lines_of(shown["error_file_id"])
    figures.note("lines", lines)
    figures.note("answered", len(answered))
    figures.note("workers killed", batch.worker_kills)
    figures.note("CORTEX killed", batch.cortex_kills)
    assert shown["status"] == ends_as
    told = [line["custom_id"] for line in (*answered, *failed)]
    assert len(told) == len(set(told)), "a line is told twice"
    assert set(told) == {f"line-{index}" for index in range(lines)}
    assert shown["request_counts"] == {
        "total": lines,
        "completed": len(answered),
        "failed": len(failed),
    }
    assert batch.worker_kills
    if ends_as == "completed":
        assert batch.cortex_kills == CORTEX_KILLS
        assert len(answered) >= 0.95 * (lines - batch.bad)
    else:
        assert answered
        assert len(failed) > batch.bad
