"""What a worker and its engine process say to each other.

Two Unix socket pairs join them. CONTROL carries few, small messages that must never wait; DATA
carries work and output. On both, a frame is a length (4 bytes, big endian) and a msgpack body.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Generic, TypeVar

import msgspec

from ..models.runtime import RuntimeType

MAX_FRAME_BYTES = 64 * 1024 * 1024
_HEADER_BYTES = 4


class Message(msgspec.Struct, tag=True, array_like=True):
    """The root of all messages."""


# CONTROL, worker to engine


class Load(Message):
    """Load this model; answered by Loaded or LoadFailed. Sent once."""

    runtime: RuntimeType
    family: str
    version: str
    config: dict[str, Any]
    settings: dict[str, Any]


class Cancel(Message):
    """Stop a request; it may have ended, or its Execute may still be under way."""

    request_id: int


class Ping(Message):
    """Answered by Pong at once, whatever the engine computes."""


class Shutdown(Message):
    """Stop all requests, free the model and exit with status 0."""


# CONTROL, engine to worker


class Ready(Message):
    """The engine process listens."""

    pid: int


class Started(Message):
    """The runtime's class is imported and made: whatever fails from here on, the model does."""


class Loaded(Message):
    """The model can be asked."""

    memory_mb: int


class LoadFailed(Message):
    """The model could not be loaded; the engine exits."""

    code: str
    message: str
    details: dict[str, Any]


class Pong(Message):
    """How the engine is."""

    active_requests: int
    memory_mb: int
    steps: int


# DATA, worker to engine


class Execute(Message):
    """Answer this input; request ids grow from one to the next."""

    request_id: int
    job_input: dict[str, Any]
    resume: dict[str, Any] | None = None


# DATA, engine to worker


class Delta(Message):
    """What a request generated since its last Delta."""

    request_id: int
    text: str
    token_ids: list[int]


class Done(Message):
    """A request's last piece, and its output."""

    request_id: int
    text: str
    token_ids: list[int]
    output: dict[str, Any]


class Failed(Message):
    """A request ended with an error; the others go on."""

    request_id: int
    code: str
    message: str
    details: dict[str, Any]


ControlToEngine = Load | Cancel | Ping | Shutdown
ControlToWorker = Ready | Started | Loaded | LoadFailed | Pong
DataToEngine = Execute
DataToWorker = Delta | Done | Failed

_encoder = msgspec.msgpack.Encoder()


class FrameError(Exception):
    """The stream cannot be read on: a frame is too large or is no message."""


def encode_frame(message: Message) -> bytes:
    """One frame.

    Raises:
        FrameError: the message is larger than MAX_FRAME_BYTES.
    """
    body = _encoder.encode(message)
    if len(body) > MAX_FRAME_BYTES:
        raise FrameError(_too_large(len(body)))
    return len(body).to_bytes(_HEADER_BYTES, "big") + body


def _too_large(size: int) -> str:
    return f"a message of {size} bytes is over the limit of {MAX_FRAME_BYTES} bytes"


M = TypeVar("M")


class FrameDecoder(Generic[M]):
    """Turns bytes, however they were cut, into messages of one channel."""

    def __init__(self, message_type: Any) -> None:
        self._decoder: msgspec.msgpack.Decoder[M] = msgspec.msgpack.Decoder(message_type)
        self._buffer = bytearray()

    @property
    def is_inside_frame(self) -> bool:
        """Whether a frame has begun that is not whole yet."""
        return bool(self._buffer)

    def feed(self, data: bytes | memoryview) -> Iterator[M]:
        """Take bytes in and give out every message they complete.

        Raises:
            FrameError: a frame is too large or is no message of this channel.
        """
        self._buffer += data
        start = 0
        try:
            while (end := self._end_of_frame(start)) is not None:
                body = bytes(memoryview(self._buffer)[start + _HEADER_BYTES : end])
                start = end
                yield self._decode(body)
        finally:
            del self._buffer[:start]

    def _end_of_frame(self, start: int) -> int | None:
        header_end = start + _HEADER_BYTES
        if len(self._buffer) < header_end:
            return None
        size = int.from_bytes(self._buffer[start:header_end], "big")
        if size > MAX_FRAME_BYTES:
            raise FrameError(_too_large(size))
        end = header_end + size
        return end if len(self._buffer) >= end else None

    def _decode(self, body: bytes) -> M:
        try:
            return self._decoder.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise FrameError(f"a frame is no message of this channel: {error}") from error
