"""A store that gives each connection so much and no more, as object stores do.

Serves a folder's subfolders as S3 buckets: GET with ranges, HEAD, and the list of a prefix. It
checks no signature. The kernel sends the files, so that the clients have the processor.
`python -m bench.downloads.stand_in FOLDER MB_PER_SECOND` prints its port.
"""

from __future__ import annotations

import http.server
import os
import re
import socketserver
import sys
import time
from collections.abc import Iterator
from email.utils import formatdate
from hashlib import md5
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

_SLICE_BYTES = 512 * 1024
_RANGE = re.compile(r"bytes=(\d+)-(\d*)")


class Server(socketserver.ThreadingMixIn, http.server.HTTPServer):
    """Serves `root` at `bytes_per_second` a connection, a thread each."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, root: Path, bytes_per_second: float) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.root = root
        self.bytes_per_second = bytes_per_second


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Server

    def setup(self) -> None:
        super().setup()
        self._free_at = 0.0

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""

    def do_HEAD(self) -> None:
        self._answer(is_head=True)

    def do_GET(self) -> None:
        self._answer(is_head=False)

    def _answer(self, *, is_head: bool) -> None:
        url = urlsplit(self.path)
        path = self.server.root / unquote(url.path).lstrip("/")
        if path.is_dir():
            query = parse_qs(url.query)
            self._list(path, query.get("prefix", [""])[0])
        elif path.is_file():
            self._file(path, is_head=is_head)
        else:
            self._body(404, b"<Error><Code>NoSuchKey</Code></Error>")

    def _list(self, bucket: Path, prefix: str) -> None:
        entries = "".join(_entries(bucket, prefix))
        text = (
            '<?xml version="1.0" encoding="UTF-8"?><ListBucketResult '
            f'xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Name>{bucket.name}</Name>'
            f"<Prefix>{escape(prefix)}</Prefix><MaxKeys>1000</MaxKeys>"
            f"<IsTruncated>false</IsTruncated>{entries}</ListBucketResult>"
        )
        self._body(200, text.encode())

    def _body(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _file(self, path: Path, *, is_head: bool) -> None:
        size = path.stat().st_size
        asked = _RANGE.fullmatch(self.headers.get("Range", ""))
        first, last = 0, size - 1
        if asked:
            first, last = int(asked[1]), min(int(asked[2] or last), last)
        self.send_response(206 if asked else 200)
        self.send_header("Content-Length", str(last - first + 1))
        self.send_header("Content-Type", "application/octet-stream")
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("ETag", _etag(path))
        self.send_header("Last-Modified", formatdate(path.stat().st_mtime, usegmt=True))
        if asked:
            self.send_header("Content-Range", f"bytes {first}-{last}/{size}")
        self.end_headers()
        if not is_head:
            with path.open("rb") as file:
                self._send(file.fileno(), first, last + 1)

    def _send(self, source: int, position: int, end: int) -> None:
        while position < end:
            time.sleep(max(0.0, self._free_at - time.monotonic()))
            count = os.sendfile(
                self.connection.fileno(), source, position, min(_SLICE_BYTES, end - position)
            )
            position += count
            began = max(self._free_at, time.monotonic() - 0.05)  # no credit for idle times
            self._free_at = began + count / self.server.bytes_per_second


def _entries(bucket: Path, prefix: str) -> Iterator[str]:
    for path in sorted(bucket.rglob("*")):
        key = path.relative_to(bucket).as_posix()
        if path.is_file() and key.startswith(prefix):
            yield (
                f"<Contents><Key>{escape(key)}</Key><LastModified>2026-01-01T00:00:00.000Z"
                f"</LastModified><ETag>{escape(_etag(path))}</ETag>"
                f"<Size>{path.stat().st_size}</Size><StorageClass>STANDARD</StorageClass>"
                "</Contents>"
            )


def _etag(path: Path) -> str:
    """As of an upload in parts: nobody takes it for the MD5 of the content."""
    return f'"{md5(path.name.encode(), usedforsecurity=False).hexdigest()}-1"'


def main() -> None:
    """Serve until killed."""
    server = Server(Path(sys.argv[1]), float(sys.argv[2]) * 1e6)
    print(server.server_address[1], flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
