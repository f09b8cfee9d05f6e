"""Small servers in threads: a GENOME that knows the echo runtime alone, and what webhooks call."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

ECHO = "echo:1"


@contextmanager
def echo_catalog(token_seconds: float) -> Iterator[str]:
    """Serve a model under a name that OpenAI's clients can say; yield GENOME's URL."""
    runtime = {"type": "echo", "config": {"token_seconds": token_seconds}}
    model = {"family": "echo", "version": "1", "runtime": runtime}

    class Answer(_Answer):
        def do_GET(self) -> None:
            known = self.path.startswith("/api/v1/models/echo")
            body = json.dumps(model if known else {"error": {"message": "There is none."}})
            self.say(200 if known else 404, body.encode())

    with _serving(Answer) as url:
        yield url


@contextmanager
def hook_receiver() -> Iterator[tuple[str, list[tuple[dict[str, str], bytes]]]]:
    """Take what webhooks send; yield the URL and the list of what has come."""
    calls: list[tuple[dict[str, str], bytes]] = []

    class Take(_Answer):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            calls.append((dict(self.headers), body))
            self.say(200, b"")

    with _serving(Take) as url:
        yield f"{url}/hook", calls


class _Answer(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def say(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@contextmanager
def _serving(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)
