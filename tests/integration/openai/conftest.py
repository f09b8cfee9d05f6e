"""OpenAI's own client, against a whole system with tiny models."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from openai import AsyncOpenAI
from openai_platform import openai_platform
from openai_tools import official_client


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cortex_url(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[str]:
    """A platform with the models chat:1, caller:1 and reader:1, and a worker that runs them."""
    async with openai_platform(tmp_path_factory.mktemp("openai")) as url:
        yield url


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def client(cortex_url: str) -> AsyncIterator[AsyncOpenAI]:
    async with official_client(cortex_url, 60) as client:
        yield client
