"""A small object server over HTTP, with switches for what stores and lines do wrong.

It answers GETs of `/bucket/key`, with Range and If-Match, as S3 does; it checks no signature.
"""

from __future__ import annotations

import hashlib
import os
import re
import socket
import ssl
import struct
import threading
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Self
from urllib.parse import unquote, urlsplit

_RANGE = re.compile(r"bytes=(\d+)-(\d+)")
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)
PIECE_BYTES = 64 * 1024


@dataclass(frozen=True)
class Fault:
    """What goes wrong with one answer, or what is unusual about it."""

    status: int = 0
    """Answered in place of the object."""
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    cut_after: int | None = None
    """Bytes of the body after which the connection is closed…"""
    reset: bool = False
    """…by RST, with what is on its way."""
    hang_after: int | None = None
    """Bytes of the body after which nothing comes until the server closes."""
    ignore_range: bool = False
    chunked: bool = False
    content_range: str = ""
    """Said in place of the true one."""
    close: bool = False
    """Closes after a right answer, without having said so."""


@dataclass
class Seen:
    """A request that came."""

    key: str
    headers: Message


class ObjectServer:
    """Serves `objects` by "bucket/key" until the context ends, a thread per connection."""

    def __init__(self, context: ssl.SSLContext | None = None) -> None:
        self.objects: dict[str, bytes] = {}
        self.etags: dict[str, str] = {}
        """ETags that are not the objects' MD5."""
        self.faults: deque[Fault] = deque()
        """Each strikes one request, in the order of their coming."""
        self.always: Fault | None = None
        """Strikes every request that no fault of the queue does."""
        self.on_request: Callable[[str], None] | None = None
        """Called with the key before each answer."""
        self.seen: list[Seen] = []
        self.sent_bytes = 0
        """Of bodies, handed to the kernel."""
        self.connections = 0
        self.closing = threading.Event()
        self.lock = threading.Lock()
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.owner = self
        self._scheme = "http"
        if context is not None:
            self._scheme = "https"
            self._server.socket = context.wrap_socket(
                self._server.socket, server_side=True, do_handshake_on_connect=False
            )
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self._server.server_address[1])

    @property
    def url(self) -> str:
        """The endpoint."""
        return f"{self._scheme}://127.0.0.1:{self.port}"

    def put(self, bucket: str, key: str, data: bytes) -> None:
        """Store an object."""
        self.objects[f"{bucket}/{key}"] = data

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.closing.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128
    owner: ObjectServer

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that hang up are what the tests are about."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server
    disable_nagle_algorithm = True

    def setup(self) -> None:
        super().setup()
        with self.server.owner.lock:
            self.server.owner.connections += 1

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        owner = self.server.owner
        key = unquote(urlsplit(self.path).path).lstrip("/")
        if owner.on_request is not None:
            owner.on_request(key)
        with owner.lock:
            owner.seen.append(Seen(key, self.headers))
            fault = owner.faults.popleft() if owner.faults else owner.always
        self._answer(key, fault or Fault())

    def _answer(self, key: str, fault: Fault) -> None:
        data = self.server.owner.objects.get(key)
        if fault.status:
            self._say(fault.status, fault.headers, fault.body)
        elif data is None:
            code = "NoSuchKey" if self._has_bucket(key) else "NoSuchBucket"
            self._say(404, {}, f"<Error><Code>{code}</Code></Error>".encode())
        else:
            self._send_object(key, data, fault)

    def _has_bucket(self, key: str) -> bool:
        bucket = key.partition("/")[0]
        return any(name.startswith(f"{bucket}/") for name in self.server.owner.objects)

    def _send_object(self, key: str, data: bytes, fault: Fault) -> None:
        md5 = hashlib.md5(data[:PIECE_BYTES], usedforsecurity=False).hexdigest()
        etag = self.server.owner.etags.get(key, f'"{md5}"')
        if self.headers.get("If-Match") not in (None, etag):
            self._say(412, {}, b"")
            return
        headers = {"ETag": etag, **fault.headers}
        asked = _RANGE.fullmatch(self.headers.get("Range") or "")
        if asked is None or fault.ignore_range:
            self._send(200, headers, data, fault)
            return
        first, last = int(asked[1]), min(int(asked[2]), len(data) - 1)
        if first >= len(data):
            self._say(416, {"Content-Range": f"bytes */{len(data)}"}, b"")
            return
        headers["Content-Range"] = fault.content_range or f"bytes {first}-{last}/{len(data)}"
        self._send(206, headers, data[first : last + 1], fault)

    def _say(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        self._send(status, headers, body, Fault())

    def _send(self, status: int, headers: Mapping[str, str], body: bytes, fault: Fault) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if fault.chunked:
            self.send_header("Transfer-Encoding", "chunked")
        else:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        for start in range(0, len(body), PIECE_BYTES):
            piece = body[start : start + PIECE_BYTES]
            if self._strikes(fault, start, piece):
                return
            self._write(piece, fault.chunked)
        if fault.chunked:
            self.wfile.write(b"0\r\n\r\n")
        if fault.close:
            self.close_connection = True

    def _strikes(self, fault: Fault, start: int, piece: bytes) -> bool:
        limit = fault.cut_after if fault.cut_after is not None else fault.hang_after
        if limit is None or start + len(piece) < limit:
            return False
        self._write(piece[: limit - start], fault.chunked)
        if fault.hang_after is not None:
            self.server.owner.closing.wait()
        if fault.reset:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
            os.close(self.connection.detach())
        self.close_connection = True
        return True

    def _write(self, piece: bytes, chunked: bool) -> None:
        frame = b"%x\r\n%s\r\n" % (len(piece), piece) if chunked and piece else piece
        self.wfile.write(frame)
        with self.server.owner.lock:
            self.server.owner.sent_bytes += len(piece)
