"""A small server that webhooks call: it keeps what it is sent, and answers as it is told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from fastapi import FastAPI, Request, Response

from mnemos.http import HttpServer


@dataclass
class Receiver:
    """What has come, and how it is answered: a status, or None for never."""

    url: str = ""
    calls: list[tuple[dict[str, str], bytes]] = field(default_factory=list)
    answer: Callable[[int], int | None] = lambda count: 200


@asynccontextmanager
async def running_receiver() -> AsyncIterator[Receiver]:
    """Serve on a free port."""
    receiver = Receiver()
    app = FastAPI()

    @app.post("/hook")
    async def hook(request: Request) -> Response:
        receiver.calls.append((dict(request.headers), await request.body()))
        status = receiver.answer(len(receiver.calls))
        if status is None:
            await asyncio.Event().wait()
        headers = {"location": f"{receiver.url}/elsewhere"} if status == 307 else {}
        return Response(status_code=status or 500, headers=headers)

    server = HttpServer(app, "127.0.0.1", 0, setting="none", grace_seconds=1)
    receiver.url = f"http://127.0.0.1:{server.bind()}/hook"
    async with asyncio.TaskGroup() as group:
        group.create_task(server.serve())
        await server.wait_ready()
        yield receiver
        server.stop()
