"""One worker's stream of calls: all are carried out at a time, and answered as they are ready.

What came in one message is done in one commit, as far as it is results, renewals and a claim. A
claim that finds nothing waits by itself and holds up nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Coroutine,
    Iterable,
    Iterator,
    Sequence,
)
from contextlib import suppress
from typing import Any

import grpc

from mnemos.protocol.v1 import cortex_pb2 as pb

from ..records import Claimed, ClaimRequest, Exchange, LeasedJob
from . import incoming, outgoing
from .fresh_leases import GrantedTogether
from .job_calls import Ear, JobCalls, leased, reported, wait_seconds
from .refusals import status_of

MAX_OPEN_CALLS = 64
"""So many may be without an answer that was sent; no more is read then, and the worker waits."""
MESSAGE_BYTES = 2 * 1024 * 1024
"""From this size on, further answers go into another message."""

_TOGETHER = frozenset({"report", "renew", "acquire"})

Work = Coroutine[Any, Any, None]
ByKind = dict[str, pb.WorkCall]


class WorkStream:
    """Serves one stream, whose messages `write` sends.

    Its end, and cancelling serve(), take back every claim that was not answered.
    """

    def __init__(
        self, calls: JobCalls, write: Callable[[pb.WorkResponse], Awaitable[None]]
    ) -> None:
        self._calls = calls
        self._send = write
        self._answers: list[pb.WorkAnswer] = []
        self._ready = asyncio.Event()
        self._room = asyncio.Event()
        self._open = 0
        self._waiting: dict[int, asyncio.Task[Any] | None] = {}
        """Claims by number: None before they have come to wait, then the task that does."""
        self._granted: dict[int, GrantedTogether] = {}
        """What claims were granted that were not confirmed yet."""

    async def serve(
        self, requests: AsyncIterator[pb.WorkRequest], end: Callable[[], Awaitable[None]]
    ) -> None:
        """Return when the worker has ended the stream.

        When `end()` returns no more is read, and this returns once what was asked is answered.
        """
        working: set[asyncio.Task[None]] = set()
        async with asyncio.TaskGroup() as tasks:

            def begin(work: Work) -> None:
                task = tasks.create_task(work)
                working.add(task)
                task.add_done_callback(working.discard)

            begin(self._write())
            with suppress(TimeoutError):
                async with asyncio.timeout(None) as reading:
                    begin(_cut_off(reading, end))
                    async for request in requests:
                        for work in self._works(request.calls):
                            begin(work)
                        await self._fewer_open(MAX_OPEN_CALLS)
            if reading.expired():
                await self._fewer_open(1)
            for task in list(working):
                task.cancel()

    async def _fewer_open(self, most: int) -> None:
        while self._open >= most:
            self._room.clear()
            await self._room.wait()

    # ------------------------------------------------------------ answers

    async def _write(self) -> None:
        await self._send(pb.WorkResponse())
        while True:
            await self._ready.wait()
            self._ready.clear()
            answers, self._answers = self._answers, []
            for message in _messages(answers):
                await self._send(message)
            self._close(len(answers))

    def _close(self, calls: int) -> None:
        self._open -= calls
        self._room.set()

    def _answer(self, number: int, **answer: Any) -> None:
        self._answers.append(pb.WorkAnswer(number=number, **answer))
        self._ready.set()

    def _refuse(self, number: int, error: Exception) -> None:
        self._refuse_as(number, *status_of(error))

    def _refuse_as(self, number: int, status: grpc.StatusCode, details: str) -> None:
        code: int = status.value[0]
        self._answer(number, refusal=pb.WorkRefusal(status=code, details=details))

    # ------------------------------------------------------------ calls

    def _works(self, calls: Iterable[pb.WorkCall]) -> Iterator[Work]:
        """What the calls of one message have to do, side by side."""
        together: ByKind = {}
        for call in calls:
            kind = call.WhichOneof("call")
            if kind == "withdraw":
                self._withdraw(call.withdraw)
                continue
            if kind == "confirm":
                self._confirm(call)
                continue
            self._open += 1
            if kind == "acquire":
                self._waiting[call.number] = None
            if kind is None:
                text = "not_known: This CORTEX does not know such a call."
                self._refuse_as(call.number, grpc.StatusCode.UNIMPLEMENTED, text)
            elif kind in _TOGETHER and kind not in together:
                together[kind] = call
            else:
                yield self._alone(call, kind)
        if together:
            yield self._exchange(together)

    def _withdraw(self, number: int) -> None:
        """Have a claim wait no longer; what it was given already, the worker may ask for again."""
        task = self._waiting.pop(number, None)
        if task is not None:
            task.cancel()

    def _confirm(self, call: pb.WorkCall) -> None:
        """The first renewal of what a claim was answered with."""
        self._open += 1
        granted = self._granted.pop(call.confirm, None)
        left = None if granted is None else self._calls.fresh.confirm_together(granted)
        self._answer(call.number, confirmed=outgoing.duration(left or 0.0))

    def _answer_claim(
        self, number: int, worker_id: str, jobs: Sequence[LeasedJob], asked_at: float
    ) -> None:
        self._waiting.pop(number, None)
        if jobs:
            granted = self._calls.fresh.note_together(worker_id, jobs, asked_at)
            if granted is not None:
                self._granted[number] = granted
            while len(self._granted) > MAX_OPEN_CALLS:
                del self._granted[next(iter(self._granted))]
        self._answer(number, acquired=leased(jobs))

    async def _alone(self, call: pb.WorkCall, kind: str) -> None:
        """What cannot be done with the rest of its message."""
        calls = self._calls
        try:
            match kind:
                case "update_status":
                    updated = await calls.update_status(call.update_status)
                    self._answer(call.number, status_updated=updated)
                case "release":
                    self._answer(call.number, released=await calls.release(call.release))
                case "report":
                    self._answer(call.number, reported=await calls.report(call.report))
                case "renew":
                    self._answer(call.number, renewed=await calls.renew(call.renew))
                case _:
                    await self._wait_for_jobs(call, calls.claim_request(call.acquire))
        except Exception as error:  # noqa: BLE001  the worker is told; the other calls go on
            self._refuse(call.number, error)

    async def _exchange(self, calls: ByKind) -> None:
        """Results, renewals and a claim."""
        told = self._told(calls)
        if not calls:
            return
        with self._calls.listening(told.wanted) as ear:
            claimed = await self._exchange_at_once(told, calls)
            if call := calls.get("acquire"):
                assert told.wanted is not None
                await self._wait_for_jobs(call, told.wanted, ear, claimed)

    async def _exchange_at_once(self, told: Exchange, calls: ByKind) -> Claimed | None:
        """Answer what can be, which then leaves `calls`; return what was claimed."""
        try:
            asked_at = self._calls.fresh.now()
            done = await self._calls.exchange(told)
            if call := calls.pop("report", None):
                self._answer(call.number, reported=reported(done.reported))
            if done.renewed and (call := calls.pop("renew", None)):
                self._answer(call.number, renewed=self._calls.renewed(done.renewed))
            if done.claimed and done.claimed.jobs and (call := calls.pop("acquire", None)):
                self._answer_claim(call.number, told.worker_id, done.claimed.jobs, asked_at)
            if done.refusal is not None:
                raise done.refusal
        except Exception as error:  # noqa: BLE001  the worker is told; the other calls go on
            for call in calls.values():
                self._waiting.pop(call.number, None)
                self._refuse(call.number, error)
            calls.clear()
            return None
        return done.claimed

    def _told(self, calls: ByKind) -> Exchange:
        """Read the calls; those that are answered without the store are so, and leave `calls`."""
        told: dict[str, Any] = {"worker_id": ""}
        if call := calls.get("report"):
            try:
                told["reports"] = [incoming.report(result) for result in call.report.results]
                told["worker_id"] = call.report.worker_id
            except incoming.RefusedError as error:
                self._refuse(call.number, error)
                del calls["report"]
        if call := calls.get("renew"):
            worker_id = call.renew.worker_id
            refs = [incoming.attempt_ref(ref) for ref in call.renew.jobs]
            told |= {"worker_id": worker_id, "renewals": refs}
            if confirmed := self._calls.confirmed(worker_id, refs):
                self._answer(call.number, renewed=confirmed)
                del calls["renew"], told["renewals"]
        if call := calls.get("acquire"):
            wanted = self._calls.claim_request(call.acquire)
            told |= {"worker_id": wanted.worker_id, "wanted": wanted}
        return Exchange(**told)

    async def _wait_for_jobs(
        self,
        call: pb.WorkCall,
        wanted: ClaimRequest,
        ear: Ear | None = None,
        claimed: Claimed | None = None,
    ) -> None:
        """Answer a claim as soon as there are jobs, unless it is withdrawn before.

        It need not be carried out at first where that was done since `ear` listens.
        """
        if call.number not in self._waiting:
            self._close(1)
            return
        self._waiting[call.number] = asyncio.current_task()
        try:
            seconds = wait_seconds(call.acquire)
            if ear is None or claimed is None:
                jobs, asked_at = await self._calls.wait_for_jobs(wanted, seconds)
            else:
                jobs, asked_at = await self._calls.wait_on(wanted, seconds, ear, claimed)
        except asyncio.CancelledError:
            self._close(1)
            raise
        except Exception as error:  # noqa: BLE001  the worker is told; the other calls go on
            self._refuse(call.number, error)
        else:
            self._answer_claim(call.number, wanted.worker_id, jobs, asked_at)
        finally:
            self._waiting.pop(call.number, None)


async def _cut_off(reading: asyncio.Timeout, end: Callable[[], Awaitable[None]]) -> None:
    await end()
    reading.reschedule(asyncio.get_running_loop().time())


def _messages(answers: Iterable[pb.WorkAnswer]) -> Iterator[pb.WorkResponse]:
    """Put answers into messages, few of them and none too large."""
    message = pb.WorkResponse()
    size = 0
    for answer in answers:
        message.answers.append(answer)
        size += answer.ByteSize()
        if size >= MESSAGE_BYTES:
            yield message
            message, size = pb.WorkResponse(), 0
    if message.answers:
        yield message
