"""A reader of a job's events that hangs up again and again, and comes back by number."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx2

END = "event: end"


@dataclass(frozen=True, slots=True)
class Event:
    """One line of a job's log."""

    number: int
    kind: str
    data: dict[str, Any]


class RestlessReader:
    """Reads a job's stream to its end in many pieces; `text` is what it has, as on the wire.

    It comes back to any of `replicas`.
    """

    def __init__(
        self, replicas: Sequence[httpx2.AsyncClient], job_id: str, random: random.Random
    ) -> None:
        self.comebacks = 0
        self._replicas = replicas
        self._path = f"/api/v1/jobs/{job_id}/stream"
        self._random = random
        self._blocks: list[str] = []
        self._end = ""

    @property
    def text(self) -> str:
        """Every event, and the end."""
        return "".join(self._blocks) + self._end

    async def read_to_end(self) -> None:
        """Return when the stream has ended. What it reads again must be what it was."""
        while not self._end:
            await self._read_some(self._random.randint(1, 12))
            self.comebacks += not self._end

    async def _read_some(self, count: int) -> None:
        known = len(self._blocks)
        start = max(0, known - self._random.choice([0, 0, 0, 3]))
        asked: dict[str, Any] = {"params": {"from_sequence": start}}
        if start and self._random.random() < 0.5:
            asked = {"headers": {"Last-Event-ID": str(start - 1)}}
        block = ""
        http = self._random.choice(self._replicas)
        async with http.stream("GET", self._path, **asked) as answer:
            assert answer.status_code == 200
            async for line in answer.aiter_lines():
                block += line + "\n"
                if line:
                    continue
                start += self._take(start, block)
                block = ""
                if start >= known + count or self._end:
                    return

    def _take(self, number: int, block: str) -> int:
        """Keep a block; return how many events it is."""
        if block.startswith(":"):
            return 0
        if block.startswith(END):
            self._end = block
            return 0
        if number < len(self._blocks):
            assert self._blocks[number] == block, "an event is another when it is read again"
        else:
            self._blocks.append(block)
        return 1


@dataclass(slots=True)
class Log:
    """A stream that has ended, taken apart."""

    events: list[Event] = field(default_factory=list)
    job: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, text: str) -> Log:
        """Take a whole stream apart; the numbers of its events must have no gaps."""
        log = cls()
        *blocks, end, rest = text.split("\n\n")
        assert not rest
        for number, block in enumerate(blocks):
            first, kind, data = block.split("\n")
            assert first == f"id: {number}", f"event {number} has the number {first}"
            value = json.loads(data.removeprefix("data: "))
            log.events.append(Event(number, kind.removeprefix("event: "), value))
        name, data = end.split("\n")
        assert name == END
        log.job = json.loads(data.removeprefix("data: "))
        return log
