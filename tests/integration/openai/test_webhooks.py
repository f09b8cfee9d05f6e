"""Who waits for the end of a batch is told, and can be sure who tells it."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import openai
import pytest
from batch_tools import answer_all, line, start, until, upload
from cortex_tools import Cortex, eventually
from hook_receiver import Receiver, running_receiver
from openai import AsyncOpenAI
from openai.types import Batch
from openai_tools import cortex_by_hand, official_client
from pydantic import SecretStr

from mnemos.cortex.settings import CortexSettings
from mnemos.cortex.webhooks.endpoints import Endpoints, WebhookEndpoint
from mnemos.cortex.webhooks.records import DeliveryState
from mnemos.cortex.webhooks.topics import WEBHOOKS_TOPIC

SECRET = f"whsec_{base64.b64encode(os.urandom(32)).decode()}"
OLD_SECRET = f"whsec_{base64.b64encode(os.urandom(32)).decode()}"


def endpoint(receiver: Receiver, **changes: object) -> WebhookEndpoint:
    return WebhookEndpoint.model_validate(
        {"url": receiver.url, "secrets": [OLD_SECRET, SECRET], **changes}
    )


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with running_receiver() as receiver:
        yield receiver


@asynccontextmanager
async def platform(
    root: Path, webhooks: dict[str, WebhookEndpoint]
) -> AsyncIterator[tuple[Cortex, AsyncOpenAI]]:
    async with (
        cortex_by_hand(root, webhooks=webhooks) as cortex,
        official_client(cortex.server.http_url) as client,
    ):
        yield cortex, client


async def run_batch(cortex: Cortex, client: AsyncOpenAI, **more: object) -> Batch:
    batch = await start(client, await upload(client, line("one")), extra_body=more)
    await answer_all(cortex, 1)
    return await until(client, batch, "completed")


async def has_called(receiver: Receiver, count: int) -> None:
    async def has() -> bool:
        return len(receiver.calls) >= count

    await eventually(has, f"{count} calls have come", seconds=30)


async def test_the_official_client_verifies_what_comes(tmp_path: Path, receiver: Receiver) -> None:
    hooks = {"all": endpoint(receiver), "quiet": endpoint(receiver, every_batch=False)}
    async with platform(tmp_path, hooks) as (cortex, client):
        done = await run_batch(cortex, client)
        await has_called(receiver, 1)
        stopped = await start(client, await upload(client, line("one")), extra_body={})
        await client.batches.cancel(stopped.id)
        await has_called(receiver, 2)
        broken = await start(client, await upload(client, "{"))
        await has_called(receiver, 3)
        named = await run_batch(cortex, client, webhooks=["quiet"])
        await has_called(receiver, 5)
        with pytest.raises(openai.BadRequestError) as unknown:
            await run_batch(cortex, client, webhooks=["https://10.0.0.1/"])
        with pytest.raises(openai.BadRequestError) as missing:
            await run_batch(cortex, client, webhooks=["nobody"])
        assert (unknown.value.param, missing.value.code) == ("webhooks.0", "webhook_not_found")
        told = []
        for headers, body in receiver.calls:
            event = client.webhooks.unwrap(body, headers, secret=SECRET)
            client.webhooks.verify_signature(body, headers, secret=OLD_SECRET)
            assert headers["webhook-id"] == event.id
            told.append((event.type, json.loads(body)["data"]["id"]))
        assert told == [
            ("batch.completed", done.id),
            ("batch.cancelled", stopped.id),
            ("batch.failed", broken.id),
            ("batch.completed", named.id),
            ("batch.completed", named.id),
        ]
        headers, body = receiver.calls[0]
        with pytest.raises(openai.InvalidWebhookSignatureError):
            client.webhooks.unwrap(body + b" ", headers, secret=SECRET)


async def test_what_has_not_arrived_is_shown_and_tried_again_by_the_next_cortex(
    tmp_path: Path, receiver: Receiver
) -> None:
    status = 307
    receiver.answer = lambda count: status
    async with platform(tmp_path, {"all": endpoint(receiver)}) as (cortex, client):
        batch = await run_batch(cortex, client)

        async def is_told_to_wait() -> bool:
            shown = await cortex.http.get("/api/v1/webhooks/deliveries?state=waiting")
            [delivery] = shown.json()["deliveries"]
            return bool(delivery["error"] == "It answered 307.")

        await eventually(is_told_to_wait, "it is shown, and nobody is sent elsewhere", seconds=30)
        refused = await cortex.http.get("/api/v1/webhooks/deliveries?state=lost")
        assert refused.status_code == 422
    status = 200
    async with platform(tmp_path, {"all": endpoint(receiver)}) as (cortex, client):
        deliveries = cortex.server.store.batches.deliveries
        for waiting in await deliveries.list_deliveries(DeliveryState.WAITING, 10):
            await deliveries.try_later(waiting, 0, "now")
        cortex.server.notifier.notify([WEBHOOKS_TOPIC])

        async def has_arrived() -> bool:
            return bool(await deliveries.list_deliveries(DeliveryState.DELIVERED, 10))

        await eventually(has_arrived, "it is delivered", seconds=30)
        [delivered] = await deliveries.list_deliveries(None, 10)
        assert (delivered.batch_id, delivered.attempts > 1) == (batch.id, True)
        ids = {headers["webhook-id"] for headers, _ in receiver.calls}
        assert ids == {delivered.event_id}
        assert {body for _, body in receiver.calls} == {receiver.calls[0][1]}


async def test_a_slow_receiver_holds_up_nobody(tmp_path: Path, receiver: Receiver) -> None:
    async with running_receiver() as slow:
        slow.answer = lambda count: None
        hooks = {"slow": endpoint(slow), "quick": endpoint(receiver)}
        async with platform(tmp_path, hooks) as (cortex, client):
            for count in (1, 2, 3):
                await run_batch(cortex, client)
                await has_called(receiver, count)
            await has_called(slow, 1)


def test_only_sound_endpoints_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    told = {"ci": {"url": "https://x/", "secrets": [SECRET]}}
    monkeypatch.setenv("CORTEX_WEBHOOKS", json.dumps(told))
    settings = CortexSettings()
    assert settings.webhooks["ci"].secrets[0].get_secret_value() == SECRET
    assert SECRET not in repr(settings)
    monkeypatch.setenv("CORTEX_WEBHOOKS", "nonsense")
    with pytest.raises(ValueError, match="must be JSON"):
        CortexSettings()
    for wrong in (
        {"url": "ftp://x/", "secrets": [SECRET]},
        {"url": "https://user:pass@x/", "secrets": [SECRET]},
        {"url": "https://x/", "secrets": []},
        {"url": "https://x/", "secrets": ["secret"]},
        {"url": "https://x/", "secrets": ["whsec_YQ=="]},
    ):
        with pytest.raises(ValueError, match="validation error"):
            WebhookEndpoint.model_validate(wrong)
    mine = WebhookEndpoint(url="https://x/", secrets=(SecretStr(SECRET),), keys=("key_1",))
    endpoints = Endpoints({"mine": mine})
    assert (endpoints.of_batch([], "key_1"), endpoints.of_batch([], "key_2")) == (("mine",), ())
    assert (endpoints.unknown(["mine"], "key_1"), endpoints.unknown(["mine"], "")) == (None, "mine")
