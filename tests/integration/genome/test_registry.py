"""Every route of the registry, over real HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import httpx2
import pytest
from structlog.testing import capture_logs

from mnemos.engram.digest import manifest_checksum
from mnemos.genome.client import GenomeClient
from mnemos.genome.errors import GenomeUnavailableError, ModelConflictError, ModelNotFoundError

pytestmark = pytest.mark.asyncio(loop_scope="module")

MakeBody = Callable[..., dict[str, Any]]


async def test_what_is_left_out_is_filled_in(genome: GenomeClient, make_body: MakeBody) -> None:
    model, created = await genome.register(make_body())
    assert created
    assert (model.name, model.artifact_path) == ("tiny", "tiny/1")
    assert (model.artifact.bucket, model.artifact.path) == ("mnemos-models", "tiny/1")
    assert model.artifact.size_bytes == 42
    assert model.artifact.checksum == manifest_checksum(
        [("config.json", 2, "a" * 64), ("model.safetensors", 40, "b" * 64)]
    )
    assert model.runtime.type == "transformers"
    assert model.created_at == model.updated_at
    assert model.created_at.utcoffset() == timedelta(0)


async def test_a_full_description_comes_back_as_it_was(
    genome: GenomeClient, make_body: MakeBody
) -> None:
    body = make_body(
        name="Tiny ü",
        description="A test.",
        runtime={"type": "vllm", "config": {"max_model_len": 2048, "nested": [1, None, "x"]}},
        requirements={"min_gpu_memory_gb": 1.5, "min_ram_gb": 2},
        capabilities=["chat", "embed"],
        tags=["small", "test"],
        metadata={"license": "apache-2.0", "emoji": "🦙"},
        input_schema={"$defs": {"t": {"type": "string"}}, "items": {"$ref": "#/$defs/t"}},
    )
    await genome.register(body)
    shown = (await genome.get("tiny", "1")).model_dump(mode="json")
    assert {name: shown[name] for name in body if name != "artifact"} == {
        name: value for name, value in body.items() if name != "artifact"
    }


async def test_the_specs_client_finds_artifact_path(
    http: httpx2.AsyncClient, genome: GenomeClient, make_body: MakeBody
) -> None:
    await http.post("/api/v1/models", json=make_body())
    answer = await http.get("/api/v1/models/tiny", params={"version": "1"})
    assert answer.status_code == 200
    assert answer.json()["artifact_path"] == "tiny/1"


async def test_registering_again_changes_nothing(genome: GenomeClient, make_body: MakeBody) -> None:
    first = await genome.register(make_body())
    second = await genome.register(make_body())
    assert (first.created, second.created) == (True, False)
    assert first.model == second.model


async def test_what_was_given_out_can_be_registered_again(
    genome: GenomeClient, make_body: MakeBody
) -> None:
    model, _ = await genome.register(make_body())
    again = await genome.register(model.model_dump(mode="json"))
    assert not again.created


async def test_other_content_is_a_conflict_unless_replaced(
    genome: GenomeClient, make_body: MakeBody
) -> None:
    first, _ = await genome.register(make_body(tags=["old"]))
    changed = make_body(description="other", tags=["new"])
    with pytest.raises(ModelConflictError, match="with another description, tags: change that"):
        await genome.register(changed)
    assert (await genome.get("tiny", "1")).description == ""
    replaced, _ = await genome.register(changed, replace=True)
    assert (replaced.description, first.revision, replaced.revision) == ("other", 1, 2)
    assert replaced.created_at == first.created_at
    assert replaced.updated_at > first.updated_at
    assert [model.version for model in (await genome.list(tag="new")).models] == ["1"]
    assert (await genome.list(tag="old")).models == []


async def test_other_files_are_a_conflict_that_names_both_digests(
    genome: GenomeClient, make_body: MakeBody
) -> None:
    first, _ = await genome.register(make_body())
    other = make_body(files=[{"path": "model.safetensors", "size": 9, "sha256": "c" * 64}])
    digest = manifest_checksum([("model.safetensors", 9, "c" * 64)])
    with pytest.raises(ModelConflictError) as refused:
        await genome.register(other)
    assert refused.value.message == (
        f"tiny:1 is registered with other files, {first.artifact.checksum}, not {digest}: choose "
        "another version, or replace it on purpose (--replace, or ?replace=true)."
    )
    assert await genome.get("tiny", "1") == first.model_copy(update={"asked_tag": None})
    with capture_logs() as logs:
        replaced, _ = await genome.register(other, replace=True)
    assert (replaced.artifact.checksum, replaced.revision) == (digest, 2)
    [line] = [line for line in logs if line["event"] == "genome.model_replaced"]
    told = (line["before"], line["checksum"], line["revision"])
    assert told == (first.artifact.checksum, digest, 2)


async def test_of_many_that_register_the_same_at_once_one_creates(
    genome: GenomeClient, make_body: MakeBody
) -> None:
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(genome.register(make_body())) for _ in range(12)]
    assert sum(task.result().created for task in tasks) == 1
    assert len((await genome.list()).models) == 1


async def test_without_a_version_the_newest_registered_answers(
    genome: GenomeClient, make_body: MakeBody
) -> None:
    for version in ("2", "10", "1"):
        await genome.register(make_body(version=version))
    assert (await genome.get("tiny")).version == "1"
    assert (await genome.get("tiny", "latest")).version == "1"
    await genome.delete("tiny", "1")
    assert (await genome.get("tiny")).version == "10"


async def test_versions_are_listed_newest_first(genome: GenomeClient, make_body: MakeBody) -> None:
    for version in ("a", "b"):
        await genome.register(make_body(version=version))
    await genome.register(make_body("other", "c"))
    found = await genome.versions("tiny")
    assert [(each.version, each.size_bytes) for each in found.versions] == [("b", 42), ("a", 42)]


async def test_what_is_missing_is_told_with_what_exists(
    genome: GenomeClient, make_body: MakeBody
) -> None:
    with pytest.raises(ModelNotFoundError, match="no model family tiny; no model is registered"):
        await genome.get("tiny", "1")
    await genome.register(make_body())
    await genome.register(make_body(version="2"))
    with pytest.raises(ModelNotFoundError, match=r"tiny has no version 9; it has 2, 1\."):
        await genome.get("tiny", "9")
    for call in (genome.get("big"), genome.versions("big"), genome.delete("big", "1")):
        with pytest.raises(ModelNotFoundError, match=r"no model family big; registered are tiny\."):
            await call
    with pytest.raises(ModelNotFoundError):
        await genome.update("tiny", "9", {"description": "x"})


async def test_pages_cover_everything_once(genome: GenomeClient, make_body: MakeBody) -> None:
    for number in range(7):
        await genome.register(make_body(version=str(number), tags=["even"] * (number % 2 == 0)))
    seen: list[str] = []
    cursor: str | None = None
    while True:
        page = await genome.list(limit=3, cursor=cursor)
        seen += [model.version for model in page.models]
        cursor = page.next_cursor
        if cursor is None:
            break
        # What is registered meanwhile belongs before the first page, not into the later ones.
        await genome.register(make_body("later", str(len(seen))))
    assert seen == ["6", "5", "4", "3", "2", "1", "0"]
    assert [m.version for m in (await genome.list(tag="even")).models] == ["6", "4", "2", "0"]
    assert len((await genome.list(family="later")).models) == 2


async def test_an_update_changes_what_it_names_and_no_more(
    genome: GenomeClient, make_body: MakeBody
) -> None:
    before, _ = await genome.register(
        make_body(tags=["a"], metadata={"x": 1}, input_schema={"type": "object"})
    )
    after = await genome.update("tiny", "1", {"description": "new", "tags": ["b", "b"]})
    assert (after.description, after.tags) == ("new", ["b", "b"])
    assert (after.metadata, after.input_schema) == ({"x": 1}, {"type": "object"})
    assert after.files == before.files
    assert after.artifact == before.artifact
    assert after.updated_at > before.updated_at
    assert (await genome.get("tiny", "1")) == after
    assert len((await genome.list(tag="b")).models) == 1
    cleared = await genome.update("tiny", "1", {"input_schema": None})
    assert cleared.input_schema is None


async def test_a_signature_goes_with_the_files_or_by_an_update(
    genome: GenomeClient, make_body: MakeBody
) -> None:
    await genome.register(make_body(signature={"bundle": "one"}))
    described = await genome.update("tiny", "1", {"description": "new"})
    assert described.signature == {"bundle": "one"}
    signed = await genome.update("tiny", "1", {"signature": {"bundle": "two"}})
    assert signed.signature == {"bundle": "two"}
    assert (await genome.update("tiny", "1", {"signature": None})).signature is None
    replaced, _ = await genome.register(make_body(signature={"bundle": "three"}), replace=True)
    assert replaced.signature == {"bundle": "three"}
    replaced, _ = await genome.register(make_body(), replace=True)
    assert replaced.signature is None


async def test_deleting_forgets_one_version(genome: GenomeClient, make_body: MakeBody) -> None:
    await genome.register(make_body())
    await genome.register(make_body(version="2"))
    await genome.delete("tiny", "1")
    assert [each.version for each in (await genome.versions("tiny")).versions] == ["2"]
    with pytest.raises(ModelNotFoundError):
        await genome.delete("tiny", "1")


async def test_validate_tells_everything_and_registers_nothing(
    genome: GenomeClient, make_body: MakeBody
) -> None:
    assert (await genome.validate(make_body())).valid
    report = await genome.validate(make_body(family="../x", runtime={"type": "tpu"}, extra=1))
    assert not report.valid
    assert {problem.field for problem in report.errors} == {"family", "runtime.type", "extra"}
    assert not (await genome.validate(["not", "a", "model"])).valid
    assert (await genome.list()).models == []


async def test_health_and_numbers(
    http: httpx2.AsyncClient, genome: GenomeClient, make_body: MakeBody
) -> None:
    await genome.register(make_body())
    await http.get("/wp-admin/1")
    for path in ("/health", "/health/live"):
        assert (await http.get(path)).json()["status"] == "ok"
    assert (await http.get("/health/ready")).json() == {"ready": True, "reasons": []}
    text = (await http.get("/metrics")).text
    assert "genome_models 1.0" in text
    assert 'method="POST",route="/api/v1/models",status="201"} ' in text
    assert "wp-admin" not in text
    paths = (await http.get("/openapi.json")).json()["paths"]
    assert "/api/v1/models/{family}/versions" in paths


async def test_a_client_without_a_server_says_so() -> None:
    async with GenomeClient("http://127.0.0.1:9") as client:
        with pytest.raises(GenomeUnavailableError, match="does not answer at http://127") as caught:
            await client.get("tiny")
    assert caught.value.retryable
