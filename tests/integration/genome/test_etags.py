"""ETags: an answer that is known is not sent again, and what has changed is not overwritten."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import httpx2
import pytest
import pytest_asyncio

from mnemos.genome.client import GenomeClient

pytestmark = pytest.mark.asyncio(loop_scope="module")

MakeBody = Callable[..., dict[str, Any]]

MODELS = "/api/v1/models"
TINY = f"{MODELS}/tiny"
PROD = f"{TINY}/tags/prod"


@pytest_asyncio.fixture(loop_scope="module")
async def http(
    http: httpx2.AsyncClient, genome: GenomeClient, make_body: MakeBody
) -> httpx2.AsyncClient:
    """GENOME with tiny:1, and prod pointing to it."""
    assert (await http.post(MODELS, json=make_body())).status_code == 201
    assert (await http.put(PROD, json={"version": "1"})).status_code == 201
    return http


@pytest.mark.parametrize(
    "path", [TINY, f"{TINY}?version=prod", MODELS, f"{TINY}/versions", f"{TINY}/tags", PROD]
)
async def test_what_the_caller_has_is_not_sent_again(
    http: httpx2.AsyncClient, make_body: MakeBody, path: str
) -> None:
    first = await http.get(path)
    etag = first.headers["etag"]
    assert (etag[0], etag[-1]) == ('"', '"'), "a strong one"
    for known in (etag, f'"other", {etag}', f"W/{etag}", "*"):
        again = await http.get(path, headers={"If-None-Match": known})
        assert (again.status_code, again.content) == (304, b"")
        assert again.headers["etag"] == etag
    assert (await http.get(path, headers={"If-None-Match": '"other"'})).json() == first.json()
    await http.post(MODELS, json=make_body(version="2"))
    await http.put(PROD, json={"version": "2"})
    changed = await http.get(path, headers={"If-None-Match": etag})
    assert (changed.status_code, changed.json() != first.json()) == (200, True)


async def test_the_etag_of_a_model_is_that_of_its_content(
    http: httpx2.AsyncClient, make_body: MakeBody
) -> None:
    etag = (await http.get(TINY, params={"version": "1"})).headers["etag"]
    for asked in ({}, {"version": "prod"}, {"version": "latest"}):
        assert (await http.get(TINY, params=asked)).headers["etag"] == etag
    assert (await http.post(MODELS, json=make_body())).headers["etag"] == etag
    put = await http.put(TINY, params={"version": "1"}, json={"description": "new"})
    assert put.headers["etag"] != etag
    assert (await http.get(TINY)).headers["etag"] == put.headers["etag"]
    replaced = await http.post(MODELS, params={"replace": True}, json=make_body())
    assert replaced.headers["etag"] not in (etag, put.headers["etag"])


async def test_what_has_changed_is_not_overwritten(http: httpx2.AsyncClient) -> None:
    seen = (await http.get(TINY)).headers["etag"]
    version = {"version": "1"}
    for stale in ('"other"', f"W/{seen}", ""):
        headers = {"If-Match": stale}
        for call in (
            http.put(TINY, params=version, json={"description": "x"}, headers=headers),
            http.delete(TINY, params=version | {"force": "true"}, headers=headers),
            http.put(PROD, json=version, headers=headers),
            http.delete(PROD, headers=headers),
            http.put(f"{TINY}/tags/new", json=version, headers=headers),
        ):
            answer = await call
            assert (answer.status_code, answer.json()["error"]["code"]) == (
                412, "precondition_failed",
            )  # fmt: skip
    changed = await http.put(
        TINY, params=version, json={"description": "x"}, headers={"If-Match": f'"a", {seen}'}
    )
    assert (changed.status_code, changed.json()["description"]) == (200, "x")
    tag = (await http.get(PROD)).headers["etag"]
    assert (await http.delete(PROD, headers={"If-Match": tag})).status_code == 204
    gone = await http.delete(TINY, params=version, headers={"If-Match": changed.headers["etag"]})
    assert gone.status_code == 204


async def test_of_many_that_have_seen_the_same_one_may_change_it(http: httpx2.AsyncClient) -> None:
    headers = {"If-Match": (await http.get(TINY)).headers["etag"]}
    async with asyncio.TaskGroup() as group:
        puts = [
            group.create_task(
                http.put(
                    TINY, params={"version": "1"}, json={"description": str(n)}, headers=headers
                )
            )
            for n in range(6)
        ]
    assert sorted(put.result().status_code for put in puts) == [200, *[412] * 5]


async def test_a_tag_may_be_asked_to_be_new(http: httpx2.AsyncClient) -> None:
    new = {"If-None-Match": "*"}
    answer = await http.put(PROD, json={"version": "1"}, headers=new)
    assert answer.status_code == 412
    assert answer.json()["error"]["message"].endswith("is there already: it points to 1.")
    blue = await http.put(f"{TINY}/tags/blue", json={"version": "1"}, headers=new)
    assert blue.status_code == 201
    pinned = await http.put(f"{TINY}/tags/latest", json={"version": "1"}, headers=new)
    assert pinned.status_code == 201
