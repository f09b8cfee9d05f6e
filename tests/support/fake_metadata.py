"""The metadata services of AWS, Google Cloud and Azure, as far as spot notices go."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Header, Request, Response

from mnemos.http import HttpServer


class FakeMetadata:
    """All three services; `notice` is what they answer with, and `broken` makes them fail."""

    def __init__(self) -> None:
        self.url = ""
        self.notice: Any = None
        self.broken = False
        self.tokens = 0
        self.asked = asyncio.Event()
        self.changed = asyncio.Event()
        self.waits: list[str] = []

    def app(self) -> FastAPI:
        app = FastAPI()

        @app.middleware("http")
        async def note(request: Request, call_next: Any) -> Any:
            self.asked.set()
            return Response(status_code=500) if self.broken else await call_next(request)

        @app.put("/latest/api/token")
        async def token(x_aws_ec2_metadata_token_ttl_seconds: int = Header()) -> Response:
            self.tokens += 1
            return Response(f"token-{self.tokens}")

        @app.get("/latest/meta-data/spot/instance-action")
        async def action(x_aws_ec2_metadata_token: str = Header()) -> Any:
            if x_aws_ec2_metadata_token != f"token-{self.tokens}":
                return Response(status_code=401)
            return self.notice or Response(status_code=404)

        @app.get("/computeMetadata/v1/instance/preempted")
        async def preempted(
            wait_for_change: bool, last_etag: str, metadata_flavor: str = Header()
        ) -> Response:
            assert metadata_flavor == "Google"
            self.waits.append(last_etag)
            self.asked.set()
            etag = "two" if self.notice else "one"
            if wait_for_change and last_etag == etag:
                await self.changed.wait()
                etag = "two"
            return Response("TRUE" if self.notice else "FALSE", headers={"ETag": etag})

        @app.get("/metadata/instance/compute")
        async def compute(metadata: str = Header()) -> Any:
            return {"name": "vm-7"}

        @app.get("/metadata/scheduledevents")
        async def events(metadata: str = Header()) -> Any:
            return {"DocumentIncarnation": 1, "Events": self.notice or []}

        return app


@asynccontextmanager
async def serving_metadata() -> AsyncIterator[FakeMetadata]:
    """Serve all three on loopback."""
    metadata = FakeMetadata()
    server = HttpServer(metadata.app(), "127.0.0.1", 0, setting="port", grace_seconds=0.1)
    server.bind()
    async with asyncio.TaskGroup() as tasks:
        serving = tasks.create_task(server.serve())
        await server.wait_ready()
        metadata.url = f"http://127.0.0.1:{server.port}"
        try:
            yield metadata
        finally:
            metadata.changed.set()
            server.stop()
            serving.cancel()
