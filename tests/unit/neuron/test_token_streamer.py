"""Many jobs' tokens share one stream: what piled up in an outage must fit through it again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from neuron.clients import convert
from neuron.errors import CortexUnavailableError
from neuron.models.job import RowResult, StreamChunk
from neuron.models.lease import AttemptRef, Renewal, StreamAck, Verdict
from neuron.models.worker import WorkerInfo, WorkerRegistration
from neuron.services.identity import Registrar
from neuron.services.lease_keeper import LeaseKeeper
from neuron.services.token_streamer import (
    MEMORY_LIMIT_BYTES,
    MESSAGES_AHEAD,
    TokenStreamer,
)
from neuron.utils.streaming import COALESCE_SECONDS

MESSAGE_LIMIT = 4 * 1024 * 1024


class Receiver:
    """CORTEX's end: refuses messages over its limit, as gRPC does, and acknowledges the rest."""

    def __init__(self) -> None:
        self.received: dict[AttemptRef, list[str]] = {}
        self.rows: list[RowResult] = []
        self.messages = 0
        self.refused = 0
        self.answers = asyncio.Event()
        """Cleared, nothing is acknowledged."""
        self.answers.set()

    def open_token_channel(self, worker_id: str) -> Wire:
        return Wire(self)

    async def register_worker(
        self, registration: WorkerRegistration, worker_id: str = ""
    ) -> WorkerInfo:
        raise AssertionError("nobody asked for that")

    async def renew_leases(
        self, worker_id: str, refs: list[AttemptRef], within_seconds: float | None = None
    ) -> Renewal:
        raise AssertionError("nobody asked for that")


class Wire:
    def __init__(self, receiver: Receiver) -> None:
        self._receiver = receiver
        self._acks: asyncio.Queue[list[StreamAck]] = asyncio.Queue()

    async def send(self, chunks: list[StreamChunk]) -> None:
        if sum(convert.to_chunk(chunk).ByteSize() for chunk in chunks) > MESSAGE_LIMIT:
            self._receiver.refused += 1
            raise CortexUnavailableError("resource_exhausted: the message is larger than max")
        acks = []
        self._receiver.messages += 1
        for chunk in chunks:
            ref = AttemptRef(chunk.job_id, chunk.attempt)
            texts = self._receiver.received.setdefault(ref, [])
            if chunk.sequence == len(texts):
                texts.append(chunk.content)
                self._receiver.rows += [chunk.row] if chunk.row is not None else []
            acks.append(StreamAck(ref, len(texts), Verdict.ACCEPTED))
        self._acks.put_nowait(acks)

    async def acknowledgements(self) -> AsyncIterator[list[StreamAck]]:
        while True:
            acks = await self._acks.get()
            await self._receiver.answers.wait()
            yield acks

    def close(self) -> None:
        return


async def no_registration() -> WorkerRegistration:
    raise AssertionError("nobody asked for that")


def streamer_to(receiver: Receiver, memory_limit_bytes: int = MEMORY_LIMIT_BYTES) -> TokenStreamer:
    registrar = Registrar(receiver, no_registration, wanted_id="wrk_1")
    keeper = LeaseKeeper(receiver, registrar)
    return TokenStreamer(receiver, registrar, keeper, memory_limit_bytes=memory_limit_bytes)


async def deliver(receiver: Receiver, texts: dict[AttemptRef, list[str]]) -> None:
    """Gather everything before the stream opens, as in an outage, and deliver it."""
    streamer = streamer_to(receiver)
    streams = {ref: streamer.open(ref) for ref in texts}
    for ref, parts in texts.items():
        for part in parts:
            await streams[ref].send(part, [])
    async with asyncio.timeout(10), asyncio.TaskGroup() as tasks:
        await streamer.start(tasks)
        for stream in streams.values():
            await stream.finish({})
        await streamer.stop()


async def test_the_tokens_of_many_jobs_fit_into_messages_that_cortex_takes() -> None:
    receiver = Receiver()
    texts = {AttemptRef(f"job_{index}", 1): ["x" * 400_000] for index in range(20)}

    await deliver(receiver, texts)

    assert receiver.refused == 0
    assert {ref: "".join(got) for ref, got in receiver.received.items()} == {
        ref: "".join(parts) for ref, parts in texts.items()
    }


async def test_what_one_job_gathered_fits_into_messages_that_cortex_takes() -> None:
    receiver = Receiver()
    ref = AttemptRef("job_1", 1)

    await deliver(receiver, {ref: ["漢字" * 50_000 for _ in range(40)]})

    assert receiver.refused == 0
    assert "".join(receiver.received[ref]) == "漢字" * 2_000_000


def row(index: int, size: int = 1) -> RowResult:
    return RowResult(index=index, result={"result": "x" * size})


async def test_rows_fit_into_messages_that_cortex_takes_and_share_them() -> None:
    receiver = Receiver()
    streamer = streamer_to(receiver)
    stream = streamer.open(AttemptRef("job_1", 1))
    rows = [row(index, 300_000) for index in range(30)] + [row(index) for index in range(30, 90)]
    for each in rows:
        await stream.send_row(each)

    async with asyncio.timeout(10), asyncio.TaskGroup() as tasks:
        await streamer.start(tasks)
        await stream.finish({})
        await streamer.stop()

    assert receiver.refused == 0
    assert receiver.rows == rows
    assert receiver.messages < 10


async def test_a_row_waits_while_too_much_is_unacknowledged_and_is_not_lost_then() -> None:
    receiver = Receiver()
    streamer = streamer_to(receiver, memory_limit_bytes=1000)
    stream = streamer.open(AttemptRef("job_1", 1))
    async with asyncio.timeout(10), asyncio.TaskGroup() as tasks:
        sending = tasks.create_task(stream.send_row(row(0, 2000)))
        for _ in range(3):
            await asyncio.sleep(0)
        waited = not sending.done()
        await streamer.start(tasks)
        await sending
        await stream.finish({})
        await streamer.stop()

    assert waited
    assert receiver.rows == [row(0, 2000)]


async def test_nobody_waits_for_rows_that_nobody_wants() -> None:
    streamer = streamer_to(Receiver(), memory_limit_bytes=1000)
    stream = streamer.open(AttemptRef("job_1", 1))
    stream.close()

    async with asyncio.timeout(5):
        await stream.send_row(row(0, 2000))
        await stream.finish({})


async def test_tokens_that_come_faster_than_acknowledgements_are_gathered() -> None:
    receiver = Receiver()
    receiver.answers.clear()
    streamer = streamer_to(receiver)
    ref = AttemptRef("job_1", 1)
    stream = streamer.open(ref)
    async with asyncio.timeout(10), asyncio.TaskGroup() as tasks:
        await streamer.start(tasks)
        for number in range(8):
            await stream.send(f"{number} ", [number])
            await asyncio.sleep(1.2 * COALESCE_SECONDS)  # each would have been sent by itself
        sent_without_answer = receiver.messages
        receiver.answers.set()
        await stream.finish({})
        await streamer.stop()

    assert sent_without_answer == MESSAGES_AHEAD
    assert receiver.received[ref][:2] == ["0 ", "1 "]
    assert receiver.received[ref][2].startswith("2 3 4 5 6 7 ")
    assert "".join(receiver.received[ref]) == "0 1 2 3 4 5 6 7 "


async def test_tokens_of_a_new_job_are_sent_though_a_forgotten_ones_were_not_answered() -> None:
    receiver = Receiver()
    receiver.answers.clear()
    streamer = streamer_to(receiver)
    forgotten = streamer.open(AttemptRef("job_1", 1))
    ref = AttemptRef("job_2", 1)
    async with asyncio.timeout(10), asyncio.TaskGroup() as tasks:
        await streamer.start(tasks)
        for number in range(MESSAGES_AHEAD):
            await forgotten.send(f"{number} ", [number])
            await asyncio.sleep(1.2 * COALESCE_SECONDS)
        forgotten.close()
        stream = streamer.open(ref)
        await stream.send("hello", [1])
        receiver.answers.set()
        await stream.finish({})
        await streamer.stop()

    assert "".join(receiver.received[ref]) == "hello"
