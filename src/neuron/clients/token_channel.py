"""One open stream of tokens to CORTEX."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import TypeAlias

import grpc

from mnemos.protocol.v1 import cortex_pb2 as pb

from ..errors import CortexUnavailableError, NeuronError
from ..models.job import StreamChunk
from ..models.lease import StreamAck
from . import convert

TokenCall: TypeAlias = "grpc.aio.StreamStreamCall[pb.StreamResultRequest, pb.StreamResultResponse]"


class TokenChannel:
    """Sends chunks and yields acknowledgements until the stream breaks, which raises.

    One task may send while another reads. close() ends both and may be called twice.
    """

    def __init__(
        self, call: TokenCall, worker_id: str, translate: Callable[[grpc.RpcError], NeuronError]
    ) -> None:
        self._call = call
        self._worker_id = worker_id
        self._translate = translate

    async def send(self, chunks: list[StreamChunk]) -> None:
        """Send chunks in one message; waits while the peer's window is full."""
        request = pb.StreamResultRequest(
            worker_id=self._worker_id, chunks=[convert.to_chunk(chunk) for chunk in chunks]
        )
        try:
            await self._call.write(request)
        except grpc.RpcError as error:
            raise self._translate(error) from error
        except asyncio.InvalidStateError as error:
            # What grpc.aio says of a stream that broke before anybody read its status.
            raise CortexUnavailableError("the token stream to CORTEX broke") from error

    async def acknowledgements(self) -> AsyncIterator[list[StreamAck]]:
        """Yield what CORTEX has made durable."""
        try:
            async for response in self._call:
                yield convert.from_acks(response)
        except grpc.RpcError as error:
            raise self._translate(error) from error

    def close(self) -> None:
        """End the stream at once; unacknowledged chunks may or may not have arrived."""
        self._call.cancel()
