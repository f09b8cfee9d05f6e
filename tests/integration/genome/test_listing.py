"""Finding models in a registry that is not small, in both databases."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx2
import pytest

from mnemos.genome.client import GenomeClient

pytestmark = pytest.mark.asyncio(loop_scope="module")

MakeBody = Callable[..., dict[str, Any]]
MODELS = "/api/v1/models"


async def names(http: httpx2.AsyncClient, **params: object) -> list[str]:
    answer = await http.get(MODELS, params={name: str(value) for name, value in params.items()})
    assert answer.status_code == 200, answer.text
    return [f"{model['family']}:{model['version']}" for model in answer.json()["models"]]


async def test_filters_narrow_each_other(
    http: httpx2.AsyncClient, genome: GenomeClient, make_body: MakeBody
) -> None:
    await genome.register(
        make_body("llama", "7b", artifact={"format": "gguf"}, tags=["Small", "chat"],
                  description="Ein GROẞES Modell, 100 % frei")
    )  # fmt: skip
    await genome.register(make_body("llama", "13b", runtime={"type": "vllm"}, tags=["chat"]))
    await genome.register(make_body("tiny", "1", capabilities=["embed"], tags=["a_b"]))
    assert await names(http) == ["tiny:1", "llama:13b", "llama:7b"]
    assert await names(http, family="llama", tag="chat") == ["llama:13b", "llama:7b"]
    assert await names(http, tag="small") == [], "labels are what they are"
    assert await names(http, format="gguf") == ["llama:7b"]
    assert await names(http, runtime="vllm") == ["llama:13b"]
    for words, found in (
        ("grosses FREI", ["llama:7b"]), ("100 %", ["llama:7b"]), ("LLAMA 13", ["llama:13b"]),
        ("embed", ["tiny:1"]), ("small", ["llama:7b"]), ("a_b", ["tiny:1"]), ("axb", []),
        ("_", ["tiny:1"]), ("\\", []), ("'; --", []), (" ", ["tiny:1", "llama:13b", "llama:7b"]),
    ):  # fmt: skip
        assert await names(http, q=words) == found, words
    await genome.set_tag("llama", "latest", "7b")
    assert await names(http, version_tag="latest") == ["tiny:1", "llama:7b"]
    assert await names(http, family="llama", runtime="vllm", format="gguf") == []


async def test_a_list_says_how_many_there_are_and_not_what_is_long(
    http: httpx2.AsyncClient, genome: GenomeClient, make_body: MakeBody
) -> None:
    for version in ("1", "2", "3"):
        await genome.register(make_body(version=version, signature={"x": 1}))
    page = (await http.get(MODELS, params={"limit": 2, "total": True})).json()
    assert (len(page["models"]), page["total"]) == (2, 3)
    model = page["models"][0]
    assert (model["file_count"], model["signed"], model["revision"]) == (2, True, 1)
    assert not {"files", "signature", "input_schema"} & set(model)
    assert (await http.get(MODELS)).json()["total"] is None


@pytest.mark.parametrize("sort", ["newest", "semver"])
async def test_versions_come_in_pages_that_nothing_new_shifts(
    genome: GenomeClient, make_body: MakeBody, sort: Any
) -> None:
    registered = ["1.10.0", "main", "1.2.0", "2.0.0-rc.1", "7b", "2.0.0", "0.1"]
    for version in registered:
        await genome.register(make_body(version=version))
    highest_first = ["2.0.0", "2.0.0-rc.1", "1.10.0", "1.2.0", "0.1", "7b", "main"]
    expected = {"newest": registered[::-1], "semver": highest_first}[sort]
    seen: list[str] = []
    cursor = None
    while True:
        page = await genome.versions("tiny", sort=sort, limit=3, cursor=cursor)
        seen += [each.version for each in page.versions]
        cursor = page.next_cursor
        if cursor is None:
            break
        await genome.register(make_body(version=f"9.{len(seen)}.0"))
        if len(seen) == 3:
            await genome.delete("tiny", seen[-1])  # the next page begins after what is gone
    assert seen == expected
