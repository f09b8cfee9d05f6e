"""Many jobs' tokens share one stream: what piled up in an outage must fit through it again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from neuron.clients import convert
from neuron.errors import CortexUnavailableError
from neuron.models.job import StreamChunk
from neuron.models.lease import AttemptRef, Renewal, StreamAck, Verdict
from neuron.models.worker import WorkerInfo, WorkerRegistration
from neuron.services.identity import Registrar
from neuron.services.lease_keeper import LeaseKeeper
from neuron.services.token_streamer import TokenStreamer

MESSAGE_LIMIT = 4 * 1024 * 1024


class Receiver:
    """CORTEX's end: refuses messages over its limit, as gRPC does, and acknowledges the rest."""

    def __init__(self) -> None:
        self.received: dict[AttemptRef, list[str]] = {}
        self.refused = 0

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
        for chunk in chunks:
            ref = AttemptRef(chunk.job_id, chunk.attempt)
            texts = self._receiver.received.setdefault(ref, [])
            if chunk.sequence == len(texts):
                texts.append(chunk.content)
            acks.append(StreamAck(ref, len(texts), Verdict.ACCEPTED))
        self._acks.put_nowait(acks)

    async def acknowledgements(self) -> AsyncIterator[list[StreamAck]]:
        while True:
            yield await self._acks.get()

    def close(self) -> None:
        return


async def no_registration() -> WorkerRegistration:
    raise AssertionError("nobody asked for that")


async def deliver(receiver: Receiver, texts: dict[AttemptRef, list[str]]) -> None:
    """Gather everything before the stream opens, as in an outage, and deliver it."""
    registrar = Registrar(receiver, no_registration, wanted_id="wrk_1")
    streamer = TokenStreamer(receiver, registrar, LeaseKeeper(receiver, registrar))
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
