"""mnemos.http: what every HTTP service of the platform shares."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx2
import pytest
from fastapi import Body, FastAPI

from mnemos.http import (
    ApiError,
    HttpServer,
    PortUnavailableError,
    bind_socket,
    install_error_handling,
)

LIMIT = 1000


def application(limit: int) -> FastAPI:
    app = FastAPI()
    install_error_handling(app, max_body_bytes=limit)

    @app.post("/echo")
    async def echo(body: dict[str, Any] = Body()) -> dict[str, Any]:  # noqa: B008  FastAPI's way
        return body

    @app.get("/boom")
    async def boom() -> None:
        raise RuntimeError("secret")

    @app.get("/refuse")
    async def refuse() -> None:
        raise ApiError(503, "unavailable", "Not \ud800 now.", "it", {"Retry-After": "3"})

    return app


@asynccontextmanager
async def serving(limit: int = LIMIT) -> AsyncIterator[httpx2.AsyncClient]:
    server = HttpServer(application(limit), "127.0.0.1", 0, setting="TEST_PORT")
    async with asyncio.TaskGroup() as group:
        group.create_task(server.serve())
        await server.wait_ready()
        base = f"http://127.0.0.1:{server.port}"
        async with httpx2.AsyncClient(base_url=base, timeout=10) as client:
            yield client
        server.stop()


async def test_a_body_without_announced_length_is_cut_off_too() -> None:
    async def parts() -> AsyncIterator[bytes]:
        for _ in range(5):
            yield b" " * 300

    headers = {"content-type": "application/json"}
    async with serving() as client:
        answer = await client.post("/echo", content=parts(), headers=headers)
        assert (answer.status_code, answer.json()["error"]["code"]) == (413, "too_large")
        fine = await client.post("/echo", json={"a": "b" * (LIMIT - 20)})
        assert fine.status_code == 200


@pytest.mark.parametrize("raw", [b'{"a":"\xff"}', b"[" * 100_000, b'{"a":' + b"9" * 5000 + b"}"])
async def test_a_body_that_cannot_be_read_is_said_to_be_no_json(raw: bytes) -> None:
    async with serving(200_000) as client:
        answer = await client.post(
            "/echo", content=raw, headers={"content-type": "application/json"}
        )
    assert answer.status_code == 422
    assert answer.json()["error"]["message"].startswith("The body is not JSON that can be read")


async def test_a_failure_inside_is_a_500_that_tells_no_secret() -> None:
    async with serving() as client:
        answer = await client.get("/boom", headers={"x-request-id": "r1"})
    assert answer.status_code == 500
    assert answer.headers["x-request-id"] == "r1"
    assert answer.json()["error"]["code"] == "internal"
    assert "secret" not in answer.text


async def test_an_api_error_is_said_whole() -> None:
    async with serving() as client:
        answer = await client.get("/refuse")
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "3")
    expected = {"code": "unavailable", "message": "Not ? now.", "field": "it"}
    assert answer.json() == {"error": expected}


@pytest.mark.parametrize("given", ["", "a b", "x" * 129, "é"])
async def test_an_odd_request_id_is_replaced(given: str) -> None:
    async with serving() as client:
        answer = await client.get("/nowhere", headers={b"x-request-id": given.encode("latin-1")})
    assert answer.headers["x-request-id"].startswith("req_")


async def test_a_busy_port_is_named_with_its_setting() -> None:
    first = HttpServer(application(LIMIT), "127.0.0.1", 0, setting="TEST_PORT")
    port = first.bind()
    try:
        second = HttpServer(application(LIMIT), "127.0.0.1", port, setting="TEST_PORT")
        with pytest.raises(PortUnavailableError, match=f"127.0.0.1:{port}.*TEST_PORT"):
            second.bind()
    finally:
        first.close()


async def test_stopping_before_serving_and_twice_is_fine() -> None:
    server = HttpServer(application(LIMIT), "127.0.0.1", 0, setting="TEST_PORT")
    server.stop()
    server.stop()
    async with asyncio.timeout(5):
        await server.serve()


async def test_answers_in_several_writes_do_not_wait_for_one_another() -> None:
    """The kernel holds small writes back, for 40 ms, unless a connection says TCP_NODELAY."""
    asked = asyncio.get_running_loop().create_future()

    def accept(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        accepted = writer.get_extra_info("socket")
        asked.set_result(accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
        writer.close()

    listener = bind_socket("127.0.0.1", 0, "TEST_PORT")
    async with await asyncio.start_server(accept, sock=listener):
        _, writer = await asyncio.open_connection(*listener.getsockname())
        assert await asked == 1
        writer.close()
        await writer.wait_closed()
