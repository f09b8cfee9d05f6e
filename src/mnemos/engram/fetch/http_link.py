"""One connection to a store that speaks HTTP, kept from part to part.

The standard library's client and a blocking socket: measured on two cores that also served, this
took 3.8 CPU seconds and 40 MB for 3.3 GB, obstore's ranged streams 6.0 and 63 MB, and its ranged
reads 5.5 and 330 MB. Without TLS the body goes to the file inside the kernel, or, where it is
hashed on the way, is received by MSG_WAITALL, a whole buffer in one call.
"""

from __future__ import annotations

import contextlib
import re
import socket
import ssl
import struct
import threading
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http.client import HTTPConnection, HTTPException, HTTPResponse
from typing import NoReturn, Protocol
from urllib.parse import urlsplit

from ..errors import EngramError, StorageUnavailableError
from .http_route import Route
from .limits import Limits
from .pipe import Pipe
from .source import Interrupted, WholeOnly, changed, check_identity, check_size
from .target import Part

_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")
_UNSATISFIED = re.compile(r"bytes \*/(\d+)")
_ENDED = "the connection ended early"
_PASSING = frozenset({408, 425, 429})
_TOLD_BYTES = 64 * 1024
_DIRECT_BYTES = 64 * 1024
"""Bodies from here on bypass the response's own buffer, which holds 8 KiB."""


class HttpSource(Protocol):
    """What a link needs to know about the bucket."""

    where: str
    limits: Limits
    route: Route

    def url(self, key: str) -> str:
        """A URL that may be asked for the object now. Raises EngramError."""
        ...

    def refusal(self, key: str, status: int, body: str) -> EngramError:
        """What it means that the store answers so."""
        ...


class HttpLink:
    """Asks for ranges of objects, one after another."""

    def __init__(self, source: HttpSource) -> None:
        self._source = source
        self._buffer = memoryview(bytearray(source.limits.buffer_bytes))
        self._connection: HTTPConnection | None = None
        self._lock = threading.Lock()
        self._aborted = False
        self._pipe: Pipe | None = None

    def fetch(self, part: Part) -> None:
        """Bring what the part lacks. Raises Interrupted, WholeOnly or EngramError."""
        before = part.done
        try:
            response, opened = self._ask(part)
            length = self._accept(part, response)
            try:
                self._receive(part, response, opened, length)
            finally:
                if part.done > before:  # headers alone may have been cut short
                    _remember(part, response)
        except ssl.SSLCertVerificationError as error:
            self._drop()
            raise StorageUnavailableError(
                f"{self._source.where} shows a certificate that is not trusted: "
                f"{error.verify_message}."
            ) from error
        except BlockingIOError as error:
            self._drop()
            raise self._silent() from error
        except TimeoutError as error:
            self._drop()
            raise self._silent() from error
        except (OSError, HTTPException) as error:
            self._drop()
            raise Interrupted(_sentence(error)) from error
        except BaseException:
            self._drop()
            raise

    def abort(self) -> None:
        """Wake a fetch that waits, by an end of its connection."""
        with self._lock:
            self._aborted = True
            connection = self._connection
        opened = connection.sock if connection is not None else None
        if opened is not None:
            with contextlib.suppress(OSError):  # closed already
                opened.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the connection and the pipe."""
        self._drop()
        if self._pipe is not None:
            self._pipe.close()
            self._pipe = None

    def _drop(self) -> None:
        """Close the connection; the next fetch opens another."""
        with self._lock:
            connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _ask(self, part: Part) -> tuple[HTTPResponse, socket.socket]:
        if self._connection is not None:
            try:
                return self._send(self._connection, part)
            except (OSError, HTTPException):
                # The store may close what was idle at any time: no failure yet.
                self._drop()
        return self._send(self._connect(), part)

    def _connect(self) -> HTTPConnection:
        limits, route = self._source.limits, self._source.route
        connection = route.connect(limits.connect_seconds)
        _set_timeouts(connection.sock, limits.stall_seconds, route.is_plain)
        with self._lock:
            self._connection = connection
            if self._aborted:
                raise Interrupted("stopped")
        return connection

    def _send(self, connection: HTTPConnection, part: Part) -> tuple[HTTPResponse, socket.socket]:
        url = urlsplit(self._source.url(part.target.wanted.key))
        headers = {"Host": url.netloc, **self._source.route.headers, **_conditions(part)}
        connection.request("GET", self._source.route.request_target(url), headers=headers)
        opened = connection.sock
        return connection.getresponse(), opened

    def _accept(self, part: Part, response: HTTPResponse) -> int:
        """Return how many bytes of the part come; raise unless they are the right ones."""
        if response.status == 206:
            length = _check_range(part, response)
        elif response.status == 200:
            length = _check_whole(part, response)
        else:
            self._refuse(part, response)
        check_identity(part.target, response.getheader("ETag"))
        return length

    def _refuse(self, part: Part, response: HTTPResponse) -> NoReturn:
        status, target = response.status, part.target
        if status == 412:
            raise changed(target)
        if status == 416:
            size = _UNSATISFIED.fullmatch(response.getheader("Content-Range") or "")
            if size is not None:
                check_size(target, int(size.group(1)))
            raise changed(target)
        if status >= 500 or status in _PASSING:
            raise Interrupted(
                f"it answered {status} {response.reason}".rstrip(),
                _seconds(response.getheader("Retry-After")),
            )
        body = response.read(_TOLD_BYTES).decode("utf-8", "replace")
        raise self._source.refusal(target.wanted.key, status, body)

    def _receive(
        self, part: Part, response: HTTPResponse, opened: socket.socket, length: int
    ) -> None:
        end = part.done + length
        is_direct = (
            self._source.route.is_plain
            and length >= _DIRECT_BYTES
            and response.length == length
            and not response.will_close
        )
        if is_direct:
            self._drain(part, response, length)
            self._receive_directly(part, opened, end)
            response.length = 0
        else:
            self._receive_buffered(part, response, end)
        if response.length is None and response.read(1):
            check_size(part.target, part.target.wanted.size + 1)
        response.close()
        if response.will_close:
            self._drop()
        if part.left:
            raise Interrupted("it sent less than it was asked for")

    def _drain(self, part: Part, response: HTTPResponse, length: int) -> None:
        """Take what came with the headers, and leave the response's buffer empty."""
        count = response.fp.readinto1(self._buffer[:length])
        if count is None:
            raise self._silent()
        part.write(self._buffer[:count])

    def _receive_directly(self, part: Part, opened: socket.socket, end: int) -> None:
        if part.digest is None:
            self._splice(part, opened, end)
        while part.done < end:
            wanted = min(end - part.done, len(self._buffer))
            count = opened.recv_into(self._buffer, wanted, socket.MSG_WAITALL)
            self._keep(part, count)

    def _splice(self, part: Part, opened: socket.socket, end: int) -> None:
        """Receive as much as `splice` can; what is hashed here must come through the buffer."""
        if self._pipe is None:
            self._pipe = Pipe(len(self._buffer))
        while self._pipe.works and part.done < end:
            wanted = min(end - part.done, len(self._buffer))
            if self._pipe.move(opened.fileno(), part, wanted) == 0 and self._pipe.works:
                raise Interrupted(_ENDED)

    def _receive_buffered(self, part: Part, response: HTTPResponse, end: int) -> None:
        while part.done < end:
            wanted = min(end - part.done, len(self._buffer))
            self._keep(part, response.readinto(self._buffer[:wanted]))

    def _keep(self, part: Part, count: int) -> None:
        if count == 0:
            raise Interrupted(_ENDED)
        part.write(self._buffer[:count])

    def _silent(self) -> Interrupted:
        return Interrupted(f"nothing came for {self._source.limits.stall_seconds:g} s")


def _remember(part: Part, response: HTTPResponse) -> None:
    etag = response.getheader("ETag")
    check_identity(part.target, etag)
    part.target.identity = etag or part.target.identity


def _conditions(part: Part) -> Mapping[str, str]:
    """Ask for what the part lacks, of the object as it was met first."""
    conditions = {}
    if part.done or not part.is_file:
        conditions["Range"] = f"bytes={part.position}-{part.position + part.left - 1}"
    etag = part.target.identity
    if isinstance(etag, str) and not etag.startswith("W/"):  # a weak one never matches
        conditions["If-Match"] = etag
    return conditions


def _check_range(part: Part, response: HTTPResponse) -> int:
    told = response.getheader("Content-Range") or ""
    match = _CONTENT_RANGE.fullmatch(told)
    if match is None:
        raise Interrupted(f"it answered with the range {told[:60]!r}")
    first, last, total = match.groups()
    if total != "*":
        check_size(part.target, int(total))
    length = int(last) - int(first) + 1
    is_inside = int(first) == part.position and 0 < length <= part.left
    if not is_inside or response.length not in (None, length):
        raise Interrupted(f"it answered with the range {told[:60]!r}")
    return length


def _check_whole(part: Part, response: HTTPResponse) -> int:
    if response.length is not None:
        check_size(part.target, response.length)
    if not part.is_file:
        raise WholeOnly
    part.rewind()
    return part.length


def _set_timeouts(opened: socket.socket, stall_seconds: float, is_plain: bool) -> None:
    if not is_plain:
        opened.settimeout(stall_seconds)
        return
    # A timeout of Python's own would make the socket non-blocking and MSG_WAITALL void.
    opened.settimeout(None)
    seconds = int(stall_seconds)
    interval = struct.pack("ll", seconds, int((stall_seconds - seconds) * 1_000_000))
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, interval)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, interval)


def _seconds(retry_after: str | None) -> float:
    """Return what Retry-After asks for, seconds or a date; 0 for none."""
    if not retry_after:
        return 0.0
    if retry_after.strip().isdecimal():
        return float(retry_after)
    try:
        until = parsedate_to_datetime(retry_after)
    except ValueError:
        return 0.0
    if until.tzinfo is None:
        until = until.replace(tzinfo=UTC)
    return max(0.0, (until - datetime.now(UTC)).total_seconds())


def _sentence(error: Exception) -> str:
    if isinstance(error, ConnectionRefusedError):
        return "it cannot be reached"
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return f"the connection failed: {text or type(error).__name__}".rstrip(".")
