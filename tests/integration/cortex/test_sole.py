"""Workers are told whether another CORTEX may give their jobs away."""

from __future__ import annotations

import pytest
from cortex_tools import Cortex, running_cortex
from pydantic import SecretStr

from mnemos.cortex.settings import CortexSettings
from mnemos.protocol.v1 import cortex_pb2 as pb


async def says_sole(cortex: Cortex) -> bool:
    can = pb.WorkerCapabilities(supported_runtimes=["vllm"], max_concurrent_jobs=1)
    request = pb.RegisterWorkerRequest(hostname="h", capabilities=can)
    return bool((await cortex.stub.RegisterWorker(request)).sole)


@pytest.mark.parametrize("kind_of_store", ["sqlite", "postgres"])
async def test_only_a_cortex_on_a_file_is_alone(
    kind_of_store: str, settings: CortexSettings, postgres_url: str
) -> None:
    if kind_of_store == "postgres":
        settings = settings.model_copy(update={"database_url": SecretStr(postgres_url)})
    async with running_cortex(settings) as cortex:
        assert await says_sole(cortex) is (kind_of_store == "sqlite")
