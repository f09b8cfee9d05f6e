"""A GENOME that knows one model: the echo runtime, under a name that OpenAI's clients can say."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

ECHO = "echo:1"


@contextmanager
def echo_catalog(token_seconds: float) -> Iterator[str]:
    """Serve it on a free port; yield its URL."""
    runtime = {"type": "echo", "config": {"token_seconds": token_seconds}}
    model = {"family": "echo", "version": "1", "runtime": runtime}

    class Answer(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            known = self.path.startswith("/api/v1/models/echo")
            body = json.dumps(model if known else {"error": {"message": "There is none."}})
            self.send_response(200 if known else 404)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)
