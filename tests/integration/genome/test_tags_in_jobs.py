"""A job that names a version tag runs the version that it pointed to when it was submitted."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from cortex_tools import running_cortex

from mnemos.cortex.settings import CortexSettings
from mnemos.genome.client import GenomeClient
from mnemos.genome.server import GenomeServer
from mnemos.genome.settings import GenomeSettings

MakeBody = Callable[..., dict[str, Any]]


async def test_a_job_gets_the_version_and_keeps_it(tmp_path: Path, make_body: MakeBody) -> None:
    settings = GenomeSettings(data_dir=tmp_path / "genome", http_port=0)
    async with GenomeServer(settings) as server, GenomeClient(server.url) as genome:
        for version in ("1.0", "2.0"):
            await genome.register(make_body(version=version))
        await genome.set_tag("tiny", "prod", "1.0")
        told = CortexSettings(
            data_dir=tmp_path / "cortex", http_port=0, grpc_port=0, genome_url=server.url
        )
        async with running_cortex(told) as cortex:
            jobs = {}
            for asked in ({"version": "prod"}, {"version": "latest"}, {}):
                model = {"family": "tiny", **asked}
                jobs[asked.get("version")] = await cortex.submit(model=model)
            await genome.set_tag("tiny", "prod", "2.0")
            found = {asked: (await cortex.job(job))["model"] for asked, job in jobs.items()}
            versions = {asked: model["version"] for asked, model in found.items()}
            assert versions == {"prod": "1.0", "latest": "2.0", None: "2.0"}
            unknown = cortex.body(model={"family": "tiny", "version": "staging"})
            answer = await cortex.http.post("/api/v1/jobs", json=unknown)
            assert answer.status_code == 404
            assert "tiny has no version staging; it has 2.0, 1.0" in answer.text
