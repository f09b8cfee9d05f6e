"""API keys as OpenAI's official client meets them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import openai
import pytest
from cortex_tools import Cortex
from openai import AsyncOpenAI
from openai_tools import complete, cortex_by_hand
from pydantic import SecretStr

OPERATOR = "the-operators-own-key-0001"
CHAT: dict[str, Any] = {"model": "tiny", "messages": [{"role": "user", "content": "Hi"}]}


class Callers:
    """A CORTEX that asks for keys, and OpenAI's clients with them."""

    def __init__(self, cortex: Cortex, stack: AsyncExitStack) -> None:
        self.cortex = cortex
        self._stack = stack

    async def caller(self, name: str, **fields: Any) -> AsyncOpenAI:
        made = await self.cortex.http.post("/api/v1/keys", json={"name": name, **fields})
        return await self.with_secret(made.json()["secret"])

    async def with_secret(self, secret: str) -> AsyncOpenAI:
        url = f"{self.cortex.server.http_url}/v1"
        client = AsyncOpenAI(base_url=url, api_key=secret, max_retries=0, timeout=20)
        return await self._stack.enter_async_context(client)

    @asynccontextmanager
    async def asking(self, client: AsyncOpenAI, **more: Any) -> AsyncIterator[str]:
        """A request that has been stored, and is answered when the context is left."""
        async with asyncio.TaskGroup() as tasks:
            asked = tasks.create_task(client.chat.completions.create(**CHAT, **more))
            [leased] = await self.cortex.acquire()
            yield leased.job.job_id
            await complete(self.cortex, leased.job.job_id, "Hello")
            assert (await asked).choices[0].message.content == "Hello"


@pytest.fixture
async def callers(tmp_path: Path) -> AsyncIterator[Callers]:
    async with (
        AsyncExitStack() as stack,
        cortex_by_hand(tmp_path, admin_key=SecretStr(OPERATOR)) as cortex,
    ):
        cortex.http.headers["authorization"] = f"Bearer {OPERATOR}"
        yield Callers(cortex, stack)


async def test_refusals_are_the_clients_own_errors(callers: Callers) -> None:
    guest = await callers.with_secret("mk-guess")
    with pytest.raises(openai.AuthenticationError) as unknown:
        await guest.models.list()
    assert unknown.value.code == "invalid_api_key"
    reader = await callers.caller("reader", scopes=["read"])
    assert [model.id for model in (await reader.models.list()).data] == ["tiny:1"]
    with pytest.raises(openai.PermissionDeniedError, match="the scope submit"):
        await reader.chat.completions.create(**CHAT)


async def test_a_key_at_its_limit_is_told_when_to_come_back(callers: Callers) -> None:
    client = await callers.caller("alice", tokens_per_minute=100)
    async with callers.asking(client, max_tokens=95):
        with pytest.raises(openai.RateLimitError) as refused:
            await client.chat.completions.create(**CHAT, max_tokens=95)
    assert refused.value.code == "rate_limit_exceeded"
    told = refused.value.response.headers
    assert float(told["retry-after"]) >= 1
    assert float(told["retry-after-ms"]) <= float(told["retry-after"]) * 1000
    assert told["x-ratelimit-limit-tokens"] == "100"
    assert told["x-ratelimit-reset-tokens"].endswith("s")


async def test_answers_are_made_by_jobs_of_the_key(callers: Callers) -> None:
    alice, bob = await callers.caller("alice"), await callers.caller("bob")
    same = {"Idempotency-Key": "first"}
    async with (
        callers.asking(alice, extra_headers=same) as hers,
        callers.asking(bob, extra_headers=same) as his,
    ):
        owners = [(await callers.cortex.job(job_id))["key_id"] for job_id in (hers, his)]
    assert len(set(owners)) == 2
    again = await alice.chat.completions.create(**CHAT, extra_headers=same)
    assert again.id.endswith(hers)
