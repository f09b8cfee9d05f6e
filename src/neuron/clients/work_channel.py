"""One open stream that carries the calls about jobs, many in a message and many at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeAlias

import grpc

from mnemos.protocol.v1 import cortex_pb2 as pb

from ..errors import CortexUnavailableError, NeuronError
from ..utils.concurrency import innermost

WorkCall: TypeAlias = "grpc.aio.StreamStreamCall[pb.WorkRequest, pb.WorkResponse]"

MESSAGE_BYTES = 3 * 1024 * 1024
"""What one message to CORTEX may carry, but for a single call that is larger."""

_STATUS = {code.value[0]: code for code in grpc.StatusCode}


Translate: TypeAlias = Callable[[grpc.StatusCode, str], NeuronError]
"""What a status, with its details, means to the worker."""


class WorkChannel:
    """Asks and is answered until the stream breaks; what is open then fails with it.

    `is_open` says whether CORTEX has answered on it. run() carries the messages and is to be a
    task of the owner's.
    """

    def __init__(self, call: WorkCall, translate: Translate) -> None:
        self.is_open = False
        self._call = call
        self._translate = translate
        self._unsent: list[pb.WorkCall] = []
        self._work = asyncio.Event()
        self._asked: dict[int, asyncio.Future[pb.WorkAnswer]] = {}
        self._number = 0

    async def run(self, on_open: Callable[[], None]) -> None:
        """Carry messages until the stream breaks, which raises a NeuronError.

        `on_open` is called once, when CORTEX has answered first.
        """
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._write())
                tasks.create_task(self._read(on_open))
        except BaseExceptionGroup as group:
            raise innermost(group) from group
        finally:
            self._close()

    async def ask(self, **call: Any) -> pb.WorkAnswer:
        """Make one call, named by its keyword; its message goes with others of this moment.

        Cancelling takes a claim back. Raises what CORTEX refused it with, and
        CortexUnavailableError when the stream breaks before it was answered.
        """
        if not self.is_open:
            raise CortexUnavailableError("the stream to CORTEX is not open")
        self._number += 1
        number = self._number
        answered: asyncio.Future[pb.WorkAnswer] = asyncio.get_running_loop().create_future()
        self._asked[number] = answered
        self._put(pb.WorkCall(number=number, **call))
        try:
            answer = await answered
        except asyncio.CancelledError:
            self._take_back(number)
            raise
        finally:
            self._asked.pop(number, None)
        if answer.WhichOneof("answer") == "refusal":
            refusal = answer.refusal
            status = _STATUS.get(refusal.status, grpc.StatusCode.UNKNOWN)
            raise self._translate(status, refusal.details)
        return answer

    def _take_back(self, number: int) -> None:
        sent = len(self._unsent)
        self._unsent = [call for call in self._unsent if call.number != number]
        if self.is_open and sent == len(self._unsent):
            self._put(pb.WorkCall(withdraw=number))

    def _put(self, call: pb.WorkCall) -> None:
        self._unsent.append(call)
        self._work.set()

    async def _write(self) -> None:
        while True:
            await self._work.wait()
            self._work.clear()
            unsent, self._unsent = self._unsent, []
            for message in _messages(unsent):
                try:
                    await self._call.write(message)
                except grpc.RpcError as error:
                    raise self._translate(error.code(), error.details() or "") from error
                except asyncio.InvalidStateError as error:
                    # What grpc.aio says of a stream that broke before its status was read.
                    raise CortexUnavailableError("the stream to CORTEX broke") from error

    async def _read(self, on_open: Callable[[], None]) -> None:
        try:
            async for response in self._call:
                if not self.is_open:
                    self.is_open = True
                    on_open()
                for answer in response.answers:
                    asked = self._asked.get(answer.number)
                    if asked is not None and not asked.done():
                        asked.set_result(answer)
        except grpc.RpcError as error:
            raise self._translate(error.code(), error.details() or "") from error
        raise CortexUnavailableError("CORTEX closed the stream")

    def _close(self) -> None:
        """End the stream; whoever waits for an answer gets none."""
        self.is_open = False
        self._call.cancel()
        for asked in self._asked.values():
            if not asked.done():
                asked.set_exception(CortexUnavailableError("the stream to CORTEX broke"))


def _messages(calls: Iterable[pb.WorkCall]) -> Iterator[pb.WorkRequest]:
    """Put calls into messages that CORTEX takes."""
    message = pb.WorkRequest()
    room = MESSAGE_BYTES
    for call in calls:
        size = call.ByteSize()
        if message.calls and size > room:
            yield message
            message, room = pb.WorkRequest(), MESSAGE_BYTES
        message.calls.append(call)
        room -= size
    if message.calls:
        yield message
