"""Following a job on which nobody works."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from cortex_tools import running_cortex

from mnemos.cli import watching
from mnemos.cli.errors import NotFound
from mnemos.cli.http import CortexClient
from mnemos.cli.watching import Listener, follow
from mnemos.cortex.settings import CortexSettings


class Told(Listener):
    """Remembers what the job waits for."""

    def __init__(self) -> None:
        self.sentences: asyncio.Queue[str] = asyncio.Queue()

    def on_waiting(self, sentence: str) -> None:
        self.sentences.put_nowait(sentence)


async def test_who_watches_a_job_on_which_nothing_moves_is_told_why_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watching, "LOOK_SECONDS", 0.01)
    monkeypatch.setattr(watching, "QUIET_SECONDS", 0.0)
    told = Told()
    settings = CortexSettings(data_dir=tmp_path, http_port=0, grpc_port=0)
    async with running_cortex(settings) as cortex, CortexClient(cortex.server.http_url) as client:
        job_id = await cortex.submit()
        async with asyncio.TaskGroup() as group:
            followed = group.create_task(follow(client, job_id, told))
            assert await told.sentences.get() == "Waiting: no worker is registered"
            await cortex.register()
            said = await told.sentences.get()
            assert said.startswith("Waiting: the one worker that could run it is not ready")
            await client.job_action(job_id, "cancel")
        assert followed.result()["status"] == "cancelled"
        assert told.sentences.empty()
        with pytest.raises(NotFound):
            await follow(client, "job_none", told)
