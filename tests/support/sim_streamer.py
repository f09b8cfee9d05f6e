"""Simulated workers that stream tokens, badly: they repeat, shuffle, are cut off, die, oversleep.

A token's text names its attempt and its place, so that a log shows who wrote what.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from enum import StrEnum
from uuid import uuid4

import grpc
import grpc.aio
from fault_proxy import FaultProxy, Way
from live_cortex import LiveCortex
from sim_worker import Ref, SimStream, SimWorker, StreamBrokenError, again, chunk

from mnemos.protocol.v1 import cortex_pb2 as pb

WINDOW = 4
"""Chunks in one message, the repeated ones besides."""
OVERSLEEP_SECONDS = 8.0
"""How long a worker waits at most for its job to be given to another."""
LATER_FAULT_SHARE = 0.3
HELD = (pb.VERDICT_ACCEPTED, pb.VERDICT_DUPLICATE)


class Fault(StrEnum):
    """What happens to a worker in the middle of a stream."""

    CUT = "cut"
    """Its connection is reset; it dials again and goes on."""
    DEATH = "death"
    """It is gone, without a word."""
    SLEEP = "sleep"
    """It stops for so long that its job is another's, and then goes on."""


def token(attempt: int, place: int) -> str:
    """The text of one token."""
    return f"{attempt}.{place} "


def tokens(attempt: int, first: int, end: int) -> str:
    """The text of some."""
    return "".join(token(attempt, place) for place in range(first, end))


@dataclass
class Deeds:
    """What all workers did and were told."""

    faults: dict[str, Counter[Fault]] = field(default_factory=dict)
    resumed: dict[Ref, str] = field(default_factory=dict)
    """The text that each attempt was told to go on from."""
    acknowledged: Counter[str] = field(default_factory=Counter)
    """How many of each job's tokens CORTEX has said to have, since it last started over."""
    repeated: int = 0
    reordered: int = 0
    stale: int = 0
    wrong: list[str] = field(default_factory=list)

    def total(self, fault: Fault) -> int:
        """Count one kind of fault."""
        return sum(counted[fault] for counted in self.faults.values())


class Streamer:
    """A worker of one slot behind a proxy of its own, which runs until it is cancelled."""

    def __init__(
        self,
        cortex: LiveCortex,
        proxy: FaultProxy,
        deeds: Deeds,
        length: int,
        lease_seconds: float,
        random: random.Random,
    ) -> None:
        self._cortex = cortex
        self._proxy = proxy
        self._deeds = deeds
        self._length = length
        self._lease_seconds = lease_seconds
        self._random = random

    async def run(self) -> None:
        """Live, die, and be replaced by another worker, again and again."""
        while True:
            async with SimWorker(self._proxy.address) as worker:
                await self._live(worker)

    async def _live(self, worker: SimWorker) -> None:
        dead = False
        while not dead:
            request_id = uuid4().hex
            for leased in await again(lambda key=request_id: worker.acquire(1, 1.0, key)):  # type: ignore[misc]  # the loop's own id
                attempt = _Attempt(worker, leased, self._deeds, self._length, self._random)
                dead = await self._stream(attempt)

    async def _stream(self, attempt: _Attempt) -> bool:
        """Stream an attempt until its end or a fault; return whether the worker dies of it."""
        fault_at, fault = self._plan(attempt)
        async with attempt.renewed(self._lease_seconds / 3) as renewal:
            while attempt.goes_on:
                if attempt.messages == fault_at:
                    self._deeds.faults.setdefault(attempt.ref.job_id, Counter())[fault] += 1
                    match fault:
                        case Fault.CUT:
                            self._cut_soon()
                        case Fault.DEATH:
                            await attempt.send_last_words()
                            return True
                        case Fault.SLEEP:
                            renewal.cancel()
                            await self._oversleep(attempt.ref)
                await attempt.send()
            await attempt.report()
        return False

    def _plan(self, attempt: _Attempt) -> tuple[int, Fault]:
        fault = self._random.choice(list(Fault))
        if attempt.ref.attempt > 1 and self._random.random() > LATER_FAULT_SHARE:
            return -1, fault
        return self._random.randrange(attempt.least_messages), fault

    def _cut_soon(self) -> None:
        """Cut the connection in the midst of the next message or of its answer."""
        way = self._random.choice(list(Way))
        self._proxy.cut_after(self._random.randint(1, 30), way)

    async def _oversleep(self, ref: Ref) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(OVERSLEEP_SECONDS):
                while (await self._cortex.job(ref.job_id))["attempt"] == ref.attempt:  # noqa: ASYNC110 - it looks from afar
                    await asyncio.sleep(self._lease_seconds / 10)


class _Attempt:
    """One attempt at streaming one job's text."""

    def __init__(
        self,
        worker: SimWorker,
        leased: pb.LeasedJob,
        deeds: Deeds,
        length: int,
        random: random.Random,
    ) -> None:
        self.ref = Ref.of(leased)
        self.messages = 0
        self._worker = worker
        self._deeds = deeds
        self._random = random
        self._stream: SimStream | None = None
        self._acked = 0
        self._lost = False
        self._before = leased.resume.text
        self._first = self._resume_at(leased)
        self._length = length
        self._chunks = list(self._cut_into_chunks())

    @property
    def goes_on(self) -> bool:
        """Whether there is more to send, and to somebody who wants it."""
        return not self._lost and self._acked < len(self._chunks)

    @property
    def least_messages(self) -> int:
        """With fewer it cannot be done."""
        return max(1, len(self._chunks) // WINDOW)

    def _resume_at(self, leased: pb.LeasedJob) -> int:
        """Where to go on; notes what was told, and what it contradicts."""
        told = list(leased.resume.token_ids)
        self._deeds.resumed[self.ref] = leased.resume.text
        starts_over = "regex" in json.loads(leased.job.input.parameters_json)
        known = 0 if starts_over else self._deeds.acknowledged[self.ref.job_id]
        if told != list(range(len(told))) or len(told) < known or (starts_over and told):
            self._deeds.wrong.append(f"{self.ref}: {known} acknowledged, told {told}")
        self._deeds.acknowledged[self.ref.job_id] = len(told)
        return len(told)

    def _cut_into_chunks(self) -> Sequence[pb.StreamChunk]:
        chunks: list[pb.StreamChunk] = []
        place = self._first
        while place < self._length:
            end = min(self._length, place + self._random.randint(1, 3))
            text = tokens(self.ref.attempt, place, end)
            chunks.append(chunk(self.ref, len(chunks), text, range(place, end)))
            place = end
        return chunks

    @asynccontextmanager
    async def renewed(self, interval_seconds: float) -> AsyncIterator[asyncio.Task[None]]:
        """Renew the lease meanwhile; yields the task that does."""
        async with asyncio.TaskGroup() as group:
            task = group.create_task(self._renew(interval_seconds))
            try:
                yield task
            finally:
                task.cancel()
                if self._stream is not None:
                    self._stream.close()

    async def _renew(self, interval_seconds: float) -> None:
        while not self._lost:
            verdicts = await again(lambda: self._worker.renew([self.ref]))
            self._lost = verdicts[self.ref] not in HELD
            await asyncio.sleep(interval_seconds)

    def _message(self) -> list[pb.StreamChunk]:
        """The next chunks, some old ones among them, in any order."""
        following = self._chunks[self._acked : self._acked + WINDOW]
        old = self._chunks[max(0, self._acked - WINDOW) : self._acked]
        again_and_new = following + self._random.choices(old + following, k=2)
        sent = list(again_and_new)
        self._random.shuffle(sent)
        self._deeds.repeated += 2
        self._deeds.reordered += sent != sorted(sent, key=lambda one: one.sequence)
        return sent

    async def send(self) -> None:
        """Send some chunks, and note what was acknowledged. A break is mended by the next call."""
        self.messages += 1
        if self._stream is None:
            self._stream = self._worker.open_stream()
        try:
            ack = await self._stream.send(self._message())
        except (grpc.aio.AioRpcError, StreamBrokenError):
            self._stream.close()
            self._stream = None
            await asyncio.sleep(0.02)
            return
        if ack.verdict == pb.VERDICT_STALE:
            self._lost = True
            self._deeds.stale += 1
            return
        self._acked = ack.next_sequence
        done = sum(len(one.token_ids) for one in self._chunks[: self._acked])
        self._deeds.acknowledged[self.ref.job_id] = self._first + done

    async def send_last_words(self) -> None:
        """Send a message whose answer nobody waits for."""
        if self._stream is None:
            self._stream = self._worker.open_stream()
        await self._stream.send_blindly(self._message())

    async def report(self) -> None:
        """Say that it is done, with the whole text."""
        if not self._lost:
            text = self._before + tokens(self.ref.attempt, self._first, self._length)
            await again(lambda: self._worker.report(self.ref, text))
