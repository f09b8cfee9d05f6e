"""Asking GENOME, against a small GENOME of the test's own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any

import httpx2
import pytest
from cortex_tools import Cortex, running_cortex
from fastapi import FastAPI, Header, Response
from fastapi.responses import JSONResponse
from pydantic import SecretStr

from mnemos.cortex import genome_lookup
from mnemos.cortex.genome_lookup import (
    CatalogModel,
    CatalogUnavailableError,
    GenomeCatalog,
    ModelUnknownError,
)
from mnemos.cortex.settings import CortexSettings
from mnemos.genome.server import GenomeServer
from mnemos.genome.settings import GenomeSettings
from mnemos.http import ApiError, HttpServer, install_error_handling


class SmallGenome:
    """Knows `tiny` 1 and 2, and what tags stand for; counts questions; can answer nonsense."""

    def __init__(self) -> None:
        self.url = ""
        self.asked = 0
        self.whole_answers = 0
        self.tags: dict[str, str] = {}
        self.more: dict[str, object] = {}
        self.nonsense: str | None = None

    async def model(
        self, family: str, version: str = "2", if_none_match: Annotated[str, Header()] = ""
    ) -> Response:
        """GET /api/v1/models/{family}"""
        self.asked += 1
        if self.nonsense is not None:
            return Response(self.nonsense)
        if family != "tiny":
            raise ApiError(404, "model_not_found", f"There is no {family}; there is tiny.")
        told = {
            "family": family,
            "version": self.tags.get(version, version),
            "runtime": {"type": "transformers"},
            **self.more,
        }
        etag = f'"{hash(str(told))}"'
        if if_none_match == etag:
            return Response(status_code=304, headers={"etag": etag})
        self.whole_answers += 1
        return JSONResponse(told, headers={"etag": etag})


@asynccontextmanager
async def small_genome() -> AsyncIterator[SmallGenome]:
    genome, app = SmallGenome(), FastAPI()
    install_error_handling(app)
    app.get("/api/v1/models/{family}", response_model=None)(genome.model)
    server = HttpServer(app, "127.0.0.1", 0, setting="TEST_PORT")
    async with asyncio.TaskGroup() as group:
        group.create_task(server.serve())
        await server.wait_ready()
        genome.url = f"http://127.0.0.1:{server.port}"
        yield genome
        server.stop()


async def test_an_answer_is_remembered_and_a_refusal_is_not() -> None:
    async with small_genome() as genome, GenomeCatalog(genome.url) as catalog:
        for _ in range(3):
            assert await catalog.find("tiny", None) == CatalogModel("tiny", "2", "transformers")
        assert genome.asked == 1
        assert (await catalog.find("tiny", "1")).version == "1"
        for _ in range(2):
            with pytest.raises(ModelUnknownError, match="there is tiny"):
                await catalog.find("huge", None)
        assert genome.asked == 4


@pytest.mark.parametrize("nonsense", ["", "[]", '{"family": "../x"}', '{"family": 1}', "<html>"])
async def test_an_answer_that_cannot_be_read_counts_as_none(nonsense: str) -> None:
    async with small_genome() as genome, GenomeCatalog(genome.url) as catalog:
        genome.nonsense = nonsense
        with pytest.raises(CatalogUnavailableError):
            await catalog.find("tiny", None)


async def test_a_genome_that_is_away_is_not_asked_for_each_job_of_a_batch() -> None:
    async with small_genome() as genome:
        url = genome.url
    async with GenomeCatalog(url) as catalog:
        for _ in range(100):
            with pytest.raises(CatalogUnavailableError, match="cannot be reached"):
                await catalog.find("tiny", None)


async def test_an_answer_is_asked_for_whole_only_when_it_changed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(genome_lookup, "CACHE_SECONDS", 0.0)
    async with small_genome() as genome, GenomeCatalog(genome.url) as catalog:
        genome.tags["prod"] = "1"
        for _ in range(3):
            assert (await catalog.find("tiny", "prod")).version == "1"
        assert (genome.asked, genome.whole_answers) == (3, 1)
        genome.tags["prod"] = "2"
        assert (await catalog.find("tiny", "prod")).version == "2"
        assert (genome.asked, genome.whole_answers) == (4, 2)


async def test_an_old_answer_does_while_genome_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(genome_lookup, "CACHE_SECONDS", 0.0)
    async with small_genome() as genome, GenomeCatalog(genome.url) as catalog:
        genome.tags["prod"] = "1"
        known = await catalog.find("tiny", "prod")
        genome.nonsense = "<html>"
        assert await catalog.find("tiny", "prod") == known
        monkeypatch.setattr(genome_lookup, "STALE_SECONDS", 0.0)
        with pytest.raises(CatalogUnavailableError):
            await catalog.find("tiny", "prod")


SCHEMA = {"properties": {"prompt": {"maxLength": 3}}}
TOO_LONG = "input: /input/prompt must have 3 characters at most, by the input schema of tiny:1."


async def test_a_tag_a_schema_and_requirements_are_heeded_at_submission(
    settings: CortexSettings,
) -> None:
    async with small_genome() as genome:
        genome.tags["prod"] = "1"
        genome.more = {"input_schema": SCHEMA, "requirements": {"min_gpu_memory_gb": 24}}
        told = settings.model_copy(update={"genome_url": genome.url})
        async with running_cortex(told) as cortex:
            await cortex.register()
            model = {"family": "tiny", "version": "prod"}

            answer = await _submit(cortex, model, "Hi!")
            assert answer.status_code == 201
            job = await cortex.job(answer.json()["job_id"])
            assert job["model"]["version"] == "1"
            assert job["requirements"]["min_gpu_memory_mb"] == 24 * 1024
            assert job["waiting_for"]["code"] == "gpu_memory_missing"

            error = (await _submit(cortex, model, "Hello")).json()["error"]
            assert (error["code"], error["message"]) == ("invalid_input", TOO_LONG)
            jobs = [cortex.body(model=model, input={"prompt": text}) for text in ("Hello", "Hi")]
            answer = await cortex.http.post("/api/v1/jobs/batch", json={"jobs": jobs})
            refused, taken = answer.json()["results"]
            assert (refused["error"]["message"], taken["created"]) == (TOO_LONG, True)


async def _submit(cortex: Cortex, model: dict[str, Any], prompt: str) -> httpx2.Response:
    body = cortex.body(model=model, input={"prompt": prompt})
    return await cortex.http.post("/api/v1/jobs", json=body)


async def test_a_submission_is_completed_by_genome(settings: CortexSettings) -> None:
    async with small_genome() as genome:
        told = settings.model_copy(update={"genome_url": genome.url})
        async with running_cortex(told) as cortex:
            job = await cortex.job(await cortex.submit(model={"family": "tiny"}))
            assert (job["model"]["version"], job["model"]["runtime"]) == ("2", "transformers")
            unknown = cortex.body(model={"family": "huge"})
            answer = await cortex.http.post("/api/v1/jobs", json=unknown)
            assert (answer.status_code, answer.json()["error"]["code"]) == (404, "model_not_found")
            lines = {"jobs": [unknown, cortex.body(model={"family": "tiny"})]}
            results = (await cortex.http.post("/api/v1/jobs/batch", json=lines)).json()["results"]
            assert results[0]["error"]["code"] == "model_not_found"
            assert results[1]["created"] is True


async def test_a_genome_that_asks_for_its_token_is_told_apart(tmp_path: Path) -> None:
    token = SecretStr("the-token-of-genome-0001")
    exposed = GenomeSettings(data_dir=tmp_path, http_host="0.0.0.0", http_port=0, token=token)  # noqa: S104
    async with GenomeServer(exposed) as genome:
        async with GenomeCatalog(genome.url) as stranger:
            with pytest.raises(CatalogUnavailableError, match="CORTEX_GENOME_TOKEN"):
                await stranger.list_models()
            with pytest.raises(CatalogUnavailableError, match="CORTEX_GENOME_TOKEN"):
                await stranger.find("tiny", None)
        async with GenomeCatalog(genome.url, token=token.get_secret_value()) as catalog:
            assert await catalog.list_models() == []
