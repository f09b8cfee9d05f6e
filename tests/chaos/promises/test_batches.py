"""Batches whose workers and whose CORTEX are killed: each line ends up in one file, once."""

from __future__ import annotations

import base64
import json
import random
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import httpx2
import pytest
from echo_catalog import ECHO, echo_catalog, hook_receiver
from figures import Figures, Scale
from openai import OpenAI
from stack import Process, Stack, running_stack, wait_until

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(900)]

CHATS = "/v1/chat/completions"
TOKENS = 40
TOKEN_SECONDS = 0.02
SLOTS = 32
WORKERS = 2
SECONDS_BETWEEN_KILLS = 3.0
DONE_BETWEEN_KILLS = 0.02
SECRET = f"whsec_{base64.b64encode(b'a secret of the test').decode()}"
ENDED = {"completed", "failed", "cancelled", "expired"}


def request_line(index: int, *, bad: bool) -> str:
    body = {
        "model": ECHO,
        "messages": [{"role": "user", "content": f"line {index}"}],
        "max_tokens": TOKENS,
        "temperature": 9 if bad else 0,
    }
    return json.dumps({"custom_id": f"line-{index}", "method": "POST", "url": CHATS, "body": body})


class BatchUnderFire:
    """One batch, and a clock for the next blow."""

    def __init__(self, stack: Stack, lines: int, bad_every: int, cortex_kills: int) -> None:
        self.stack = stack
        self.lines = lines
        self.bad_every = bad_every
        self.bad = len(range(0, lines, bad_every)) if bad_every else 0
        self.worker_kills = 0
        self.cortex_kills = 0
        self._most_cortex_kills = cortex_kills
        self._random = random.Random(5)
        self._next_kill = 0.0
        self._done_at_kill = 0
        self._workers = [self._worker() for _ in range(WORKERS)]
        self._cortex = self._start_cortex()
        self.batch_id = ""

    def begin(self, window: str) -> None:
        """Upload the lines and let them run."""
        text = "\n".join(
            request_line(index, bad=bool(self.bad_every) and index % self.bad_every == 0)
            for index in range(self.lines)
        )
        url = self.stack.cortex_url
        answer = self._sent(
            lambda: httpx2.post(
                f"{url}/v1/files",
                data={"purpose": "batch"},
                files={"file": ("in.jsonl", text.encode())},
                timeout=60,
            )
        )
        body = {"input_file_id": answer["id"], "endpoint": CHATS, "completion_window": window}
        made = self._sent(lambda: httpx2.post(f"{url}/v1/batches", json=body, timeout=30))
        self.batch_id = made["id"]

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

        Kill CORTEX each time another equal share of the way is done.
        """
        worth_it = done - self._done_at_kill >= self.lines * DONE_BETWEEN_KILLS
        if worth_it and time.monotonic() >= self._next_kill:
            self._done_at_kill = done
            self._next_kill = time.monotonic() + SECONDS_BETWEEN_KILLS
            victim = self._workers.pop(self._random.randrange(len(self._workers)))
            victim.kill()
            self.worker_kills += 1
            self._workers.append(self._worker())
        share = self.lines / (self._most_cortex_kills + 1)
        if self.cortex_kills < self._most_cortex_kills and done >= share * (self.cortex_kills + 1):
            self.cortex_kills += 1
            self.kill_cortex()

    def kill_cortex(self) -> None:
        """kill -9, and start it again."""
        self._cortex.kill()
        self._cortex = self._start_cortex()

    def cancel(self) -> None:
        """Let it stop."""
        url = f"{self.stack.cortex_url}/v1/batches/{self.batch_id}/cancel"
        self._sent(lambda: httpx2.post(url, timeout=30))

    def lines_of(self, file_id: str | None) -> list[dict[str, Any]]:
        """A file of answers or errors."""
        if file_id is None:
            return []
        url = f"{self.stack.cortex_url}/v1/files/{file_id}/content"
        return [json.loads(line) for line in httpx2.get(url, timeout=60).text.splitlines()]

    def _worker(self) -> Process:
        process, _ = self.stack.start_worker(
            supported_runtimes="echo", max_concurrent_jobs=SLOTS, log_level="INFO"
        )
        return process

    def _start_cortex(self) -> Process:
        command = [sys.executable, "-m", "mnemos.cortex"]
        process = self.stack.spawn("cortex", command, self.stack.cli_environment())
        self.stack.wait_for_http(f"{self.stack.cortex_url}/ready", process)
        return process

    def _sent(self, send: Callable[[], httpx2.Response]) -> dict[str, Any]:
        answer = send()
        assert answer.status_code == 200, answer.text
        told: dict[str, Any] = answer.json()
        return told


def is_right(line: dict[str, Any]) -> bool:
    """Whether an answer is that of its line: its words, round and round."""
    words = ["line", line["custom_id"].removeprefix("line-")]
    answer: str = line["response"]["body"]["choices"][0]["message"]["content"]
    return answer == " ".join(islice(cycle(words), TOKENS))


@pytest.mark.parametrize(
    ("ends_as", "bad_every"),
    [("completed", 0), ("completed", 10), ("cancelled", 10), ("expired", 0)],
)
def test_batches_are_whole_whatever_is_killed(
    tmp_path: Path, scale: Scale, figures: Figures, ends_as: str, bad_every: int
) -> None:
    if not scale.long and (ends_as, bad_every) != ("completed", 10):
        pytest.skip("in the long form only")
    lines = scale.of(5000, 200)
    whole_seconds = lines * TOKENS * TOKEN_SECONDS / (SLOTS * WORKERS)
    window = f"{whole_seconds / 2:.0f}s" if ends_as == "expired" else "24h"
    with (
        echo_catalog(TOKEN_SECONDS) as genome_url,
        hook_receiver() as (hook_url, calls),
        running_stack(tmp_path, CORTEX_LEASE_SECONDS="3", CORTEX_MAX_LOST_WORKERS="50") as stack,
    ):
        stack.environment |= {
            "CORTEX_HTTP_PORT": str(stack.http_port),
            "CORTEX_GRPC_PORT": str(stack.grpc_port),
            "CORTEX_DATA_DIR": str(tmp_path / "cortex"),
            "CORTEX_GENOME_URL": genome_url,
            "CORTEX_ENGRAM_URL": (tmp_path / "engram").as_uri(),
            "CORTEX_WEBHOOKS": json.dumps({"all": {"url": hook_url, "secrets": [SECRET]}}),
        }
        began = time.monotonic()
        batch = BatchUnderFire(stack, lines, bad_every, cortex_kills=scale.of(3, 1))
        batch.begin(window)
        cancelled, most = False, 0

        def ended() -> dict[str, Any] | None:
            nonlocal cancelled, most
            shown = batch.seen()
            if shown is None or shown["status"] in ENDED:
                return shown
            counts = shown["request_counts"]
            done = counts["completed"]
            assert most <= done <= done + counts["failed"] <= lines, "what is counted stays counted"
            most = done
            batch.strike(done)
            if ends_as == "cancelled" and not cancelled and done * 2 >= lines:
                cancelled = True
                batch.cancel()
            return None

        shown = wait_until(ended, seconds=800, what="the end of the batch")
        seconds = time.monotonic() - began
        batch.kill_cortex()
        assert batch.seen() == shown, "what has ended stays as it is"
        wait_until(lambda: calls, seconds=150, what="the webhook's event")
        answered = batch.lines_of(shown["output_file_id"])
        failed = batch.lines_of(shown["error_file_id"])
    told = [line["custom_id"] for line in (*answered, *failed)]
    figures.note("ends as", shown["status"])
    figures.note("lines", lines)
    figures.note("answered", len(answered))
    figures.note("in the error file", len(failed))
    figures.note("told twice", len(told) - len(set(told)))
    figures.note("missing", len({f"line-{index}" for index in range(lines)} - set(told)))
    figures.note("workers killed", batch.worker_kills)
    figures.note("CORTEX killed", batch.cortex_kills)
    figures.note("took", seconds, "s")
    verify = OpenAI(api_key="unused").webhooks.unwrap
    events = [verify(body, headers, secret=SECRET) for headers, body in calls]
    assert {event.type for event in events} == {f"batch.{ends_as}"}
    assert len({event.id for event in events}) == 1
    assert shown["status"] == ends_as
    assert len(told) == len(set(told)), "a line is told twice"
    assert set(told) == {f"line-{index}" for index in range(lines)}
    assert [line for line in answered if not is_right(line)] == []
    assert shown["request_counts"] == {
        "total": lines,
        "completed": len(answered),
        "failed": len(failed),
    }
    assert batch.worker_kills
    if ends_as == "completed":
        assert batch.cortex_kills == scale.of(3, 1)
        assert len(answered) == lines - batch.bad
    else:
        assert answered
        assert len(failed) > batch.bad
