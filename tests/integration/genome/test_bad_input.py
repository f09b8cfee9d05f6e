"""Whatever is sent, the answer is one sentence, a stable code and the right status."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx2
import pytest
import pytest_asyncio

from mnemos.genome.server import GenomeServer
from mnemos.genome.settings import GenomeSettings

MakeBody = Callable[..., dict[str, Any]]

# One server for the whole module: what is refused leaves nothing behind.
pytestmark = pytest.mark.asyncio(loop_scope="module")

TRAVERSALS = [
    "..",
    "../x",
    "a/../b",
    "/etc",
    "a\\b",
    "a\0b",
    "a//b",
    "./a",
    "",
    "..%2fx",
    "x" * 2000,
]
BAD_KEYS = [name for name in TRAVERSALS if name not in ("", "..%2fx")]
HEX = "a" * 64


def file(**changes: Any) -> dict[str, Any]:
    return {"path": "m.safetensors", "size": 1, "sha256": HEX} | changes


def deep(levels: int) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for _ in range(levels):
        value = {"x": value}
    return value


BAD_FIELDS: list[tuple[str | None, dict[str, Any]]] = [
    *[("family", {"family": name}) for name in TRAVERSALS],
    *[("version", {"version": name}) for name in [*TRAVERSALS, "latest"]],
    *[("artifact_path", {"artifact_path": name}) for name in BAD_KEYS],
    *[
        ("files.0.path", {"files": [file(path=name)]})
        for name in ["", *BAD_KEYS]
    ],
    ("files", {"files": []}),
    ("files", {"files": [file(), file()]}),
    ("files", {"files": [file(path="a"), file(path="a/b")]}),
    *[
        ("files", {"files": [file(path=first), file(path=second)]})
        for first, second in [("a", "A"), ("x/B", "X/b"), ("A/x", "a/y"), ("\u00df", "SS")]
    ],
    *[
        ("files.0.path", {"files": [file(path=name)]})
        for name in ["m\uff0fx", "\u2024\u2024/x", "e\u0301", "mod\u0435l", "a\u202eb", "x" * 300]
    ],
    ("files.1.path", {"files": [file(path="a"), file(path="/".join(["x" * 250] * 4))],
                      "artifact_path": "y" * 40}),
    ("files", {"files": [file(path=str(n), size=2**50) for n in range(9)]}),
    ("files", {"files": [file(path=str(n)) for n in range(10_001)]}),
    ("files.0.size", {"files": [file(size=-1)]}),
    ("files.0.size", {"files": [file(size=1.5)]}),
    ("files.0.sha256", {"files": [file(sha256="abc")]}),
    ("files.0.sha256", {"files": [file(sha256=HEX.upper())]}),
    ("artifact.format", {"artifact": {"format": "onnx"}}),
    ("artifact.format", {"artifact": {}}),
    ("artifact.bucket", {"artifact": {"format": "gguf", "bucket": "../up"}}),
    ("artifact.size_bytes", {"artifact": {"format": "gguf", "size_bytes": 7}}),
    ("artifact.checksum", {"artifact": {"format": "gguf", "checksum": f"sha256:{HEX}"}}),
    ("artifact.path", {"artifact": {"format": "gguf", "path": "some/where"}}),
    ("runtime.type", {"runtime": {"type": "tensorrt"}}),
    ("runtime.config", {"runtime": {"config": []}}),
    ("requirements.min_ram_gb", {"requirements": {"min_ram_gb": -1}}),
    ("tags", {"tags": ["x"] * 65}),
    ("tags.0", {"tags": [""]}),
    ("tags.0", {"tags": [7]}),
    ("tags.0", {"tags": ["a\0b"]}),
    ("name", {"name": "a\0b"}),
    ("metadata", {"metadata": {"big": "x" * 70_000}}),
    ("metadata", {"metadata": deep(40)}),
    ("metadata", {"metadata": {"x": "\ud800"}}),
    ("input_schema", {"input_schema": {"type": "no-such-type"}}),
    ("input_schema", {"input_schema": {"pattern": "("}}),
    ("input_schema", {"input_schema": {"$ref": "http://elsewhere/schema.json"}}),
    ("input_schema", {"input_schema": "text"}),
    ("signature", {"signature": {"bundle": "x" * 4_200_000}}),
    ("signature", {"signature": deep(40)}),
    ("signature", {"signature": "text"}),
    ("description", {"description": "x" * 9000}),
    ("familly", {"familly": "typing mistake"}),
]  # fmt: skip


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def http(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[httpx2.AsyncClient]:
    """A plain HTTP client, for what GENOME's own client would never send."""
    settings = GenomeSettings(data_dir=tmp_path_factory.mktemp("genome"), http_port=0)
    async with (
        GenomeServer(settings) as server,
        httpx2.AsyncClient(base_url=server.url, trust_env=False) as client,
    ):
        yield client


def assert_refused(answer: httpx2.Response, status: int, code: str) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    assert answer.headers["x-request-id"]
    error: dict[str, Any] = answer.json()["error"]
    assert set(error) == {"code", "message", "field"}
    assert error["code"] == code
    assert error["message"].endswith(".")
    assert "\n" not in error["message"]
    assert len(error["message"]) < 400
    return error


@pytest.mark.parametrize(("field", "changes"), BAD_FIELDS)
async def test_a_bad_description_is_refused_by_field(
    http: httpx2.AsyncClient, make_body: MakeBody, field: str | None, changes: dict[str, Any]
) -> None:
    before = (await http.get("/api/v1/models")).json()
    content = json.dumps(make_body(**changes)).encode()
    headers = {"content-type": "application/json"}
    answer = await http.post("/api/v1/models", content=content, headers=headers)
    assert assert_refused(answer, 422, "invalid_input")["field"] == field
    report = await http.post("/api/v1/models/validate", content=content, headers=headers)
    assert report.json()["valid"] is False
    assert field in [problem["field"] for problem in report.json()["errors"]]
    assert (await http.get("/api/v1/models")).json() == before


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"null", b"[]", b"\xff\xfe", b'{"a": 1', b"[" * 100_000, b'"text"', b"9" * 5000],
)
async def test_a_body_that_is_no_description(http: httpx2.AsyncClient, content: bytes) -> None:
    headers = {"content-type": "application/json"}
    answer = await http.post("/api/v1/models", content=content, headers=headers)
    assert_refused(answer, 422, "invalid_input")


@pytest.mark.parametrize("value", ["NaN", "Infinity", "1e999"])
async def test_numbers_that_json_does_not_have(
    http: httpx2.AsyncClient, make_body: MakeBody, value: str
) -> None:
    for field in ("metadata", "requirements"):
        inner = {"metadata": "x", "requirements": "min_ram_gb"}[field]
        body = json.dumps(make_body(**{field: {inner: "VALUE"}})).replace('"VALUE"', value)
        answer = await http.post(
            "/api/v1/models", content=body.encode(), headers={"content-type": "application/json"}
        )
        assert_refused(answer, 422, "invalid_input")


async def test_a_body_over_the_limit(http: httpx2.AsyncClient) -> None:
    answer = await http.post("/api/v1/models", content=b" " * (16 * 1024 * 1024 + 1))
    assert_refused(answer, 413, "too_large")


async def test_a_manifest_of_ten_thousand_files_is_below_the_limit(
    http: httpx2.AsyncClient, make_body: MakeBody
) -> None:
    folder = "/".join(["x" * 100] * 4)
    files = [file(path=f"{folder}/{n:05}", size=100 * 2**20) for n in range(10_000)]
    answer = await http.post("/api/v1/models", json=make_body("huge", files=files))
    assert answer.status_code == 201, answer.text
    assert answer.json()["artifact"]["size_bytes"] == 10_000 * 100 * 2**20
    assert len((await http.get("/api/v1/models/huge")).json()["files"]) == 10_000
    listed = await http.get("/api/v1/models?family=huge")
    assert (listed.json()["models"][0]["file_count"], len(listed.content) < 2000) == (10_000, True)


@pytest.mark.parametrize(
    "query",
    [
        "limit=0", "limit=501", "limit=x", "cursor=x", "cursor=m", "cursor=m-1", "cursor=m%C2%B2",
        "cursor=m9999999999999999999999", "family=..%2Fx", f"tag={'x' * 129}", "tag=%00",
        "q=a%00b", f"q={'x' * 201}", "format=onnx", "runtime=x", "version_tag=..", "total=maybe",
    ],
)  # fmt: skip
async def test_bad_queries(http: httpx2.AsyncClient, query: str) -> None:
    answer = await http.get(f"/api/v1/models?{query}")
    assert assert_refused(answer, 422, "invalid_input")["field"] == query.split("=")[0]


@pytest.mark.parametrize(
    "query", ["sort=best", "limit=501", "cursor=m1", "cursor=v1", "cursor=v1234567890123456789.1"]
)
async def test_bad_queries_for_versions(
    http: httpx2.AsyncClient, make_body: MakeBody, query: str
) -> None:
    await http.post("/api/v1/models", json=make_body())
    answer = await http.get(f"/api/v1/models/tiny/versions?{query}")
    assert assert_refused(answer, 422, "invalid_input")["field"] == query.split("=")[0]


@pytest.mark.parametrize("tag", ["a..b", "a%00b", "%EF%BC%8E", "-x", "x" * 300, "a b", "a%5Cb"])
async def test_a_version_tag_is_a_name(
    http: httpx2.AsyncClient, make_body: MakeBody, tag: str
) -> None:
    await http.post("/api/v1/models", json=make_body())
    path = f"/api/v1/models/tiny/tags/{tag}"
    for call in (http.put(path, json={"version": "1"}), http.get(path), http.delete(path)):
        assert assert_refused(await call, 422, "invalid_input")["field"] == "tag"


@pytest.mark.parametrize(
    ("field", "body"),
    [("version", {}), ("version", {"version": "../1"}), ("version", {"version": 1}),
     ("version", {"version": "latest"}), ("x", {"version": "1", "x": 1})],
)  # fmt: skip
async def test_what_a_version_tag_points_to_is_one_version(
    http: httpx2.AsyncClient, make_body: MakeBody, field: str, body: dict[str, Any]
) -> None:
    await http.post("/api/v1/models", json=make_body())
    answer = await http.put("/api/v1/models/tiny/tags/prod", json=body)
    assert assert_refused(answer, 422, "invalid_input")["field"] == field
    assert (await http.get("/api/v1/models/tiny/tags/prod")).status_code == 404


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
@pytest.mark.parametrize("version", ["../1", "..", "a/b", "a\\b", "%00", ""])
async def test_a_version_that_leaves_is_refused(
    http: httpx2.AsyncClient, method: str, version: str
) -> None:
    answer = await http.request(
        method,
        "/api/v1/models/tiny",
        params={"version": version},
        json={} if method == "PUT" else None,
    )
    assert assert_refused(answer, 422, "invalid_input")["field"] == "version"


@pytest.mark.parametrize("family", ["%2e%2e", "a..b", "%00", "a%5Cb", "-x", "x" * 200])
async def test_a_family_that_leaves_is_refused(http: httpx2.AsyncClient, family: str) -> None:
    answer = await http.get(httpx2.URL(f"/api/v1/models/{family}"))
    if answer.status_code == 404:  # the address itself was folded on the way
        assert_refused(answer, 404, "not_found")
    else:
        assert assert_refused(answer, 422, "invalid_input")["field"] == "family"


@pytest.mark.parametrize("family", ["..%2F..%2Fetc%2Fpasswd", "a%2Fb", "%2Fetc"])
async def test_an_encoded_slash_finds_nothing(http: httpx2.AsyncClient, family: str) -> None:
    answer = await http.get(f"/api/v1/models/{family}")
    assert_refused(answer, 404, "not_found")


@pytest.mark.parametrize("method", ["PUT", "DELETE"])
@pytest.mark.parametrize("query", ["", "?version=latest"])
async def test_a_change_names_its_version(
    http: httpx2.AsyncClient, make_body: MakeBody, method: str, query: str
) -> None:
    await http.post("/api/v1/models", json=make_body())
    body = {"description": "x"} if method == "PUT" else None
    answer = await http.request(method, f"/api/v1/models/tiny{query}", json=body)
    assert assert_refused(answer, 422, "invalid_input")["field"] == "version"
    assert (await http.get("/api/v1/models/tiny")).json()["description"] == ""


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("files", {"files": []}), ("family", {"family": "x"}), ("tags", {"tags": "x"}),
        ("runtime.type", {"runtime": {"type": 1}}), ("metadata", {"metadata": deep(40)}),
    ],
)  # fmt: skip
async def test_a_bad_update_is_refused_by_field(
    http: httpx2.AsyncClient, make_body: MakeBody, field: str, change: dict[str, Any]
) -> None:
    await http.post("/api/v1/models", json=make_body())
    answer = await http.put("/api/v1/models/tiny?version=1", json=change)
    assert assert_refused(answer, 422, "invalid_input")["field"] == field


async def test_other_addresses_and_methods(http: httpx2.AsyncClient) -> None:
    assert_refused(await http.get("/api/v1/nothing"), 404, "not_found")
    assert_refused(await http.patch("/api/v1/models"), 405, "method_not_allowed")
