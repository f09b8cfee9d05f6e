"""The background duty that tells webhooks what they wait for."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable

import httpx2
import structlog

from ..errors import CortexError
from ..notifier import Notifier
from .endpoints import Endpoints, WebhookEndpoint
from .records import Delivery
from .signing import body_of, headers_of
from .store import DeliveryStore
from .topics import WEBHOOKS_TOPIC

AT_ONCE = 8
"""So many deliveries of one endpoint go on together."""
ATTEMPT_SECONDS = 15.0
CLAIM_SECONDS = 60.0
"""So long after its sender was killed a delivery is tried again."""
FIRST_RETRY_SECONDS = 5.0
LONGEST_RETRY_SECONDS = 3600.0
GIVE_UP_SECONDS = 72 * 3600.0
LOOK_SECONDS = 30.0
SHORTEST_PAUSE_SECONDS = 0.2
MAX_ERROR_CHARACTERS = 300
GONE = 410

_log = structlog.get_logger(__name__)


class WebhookSender:
    """Delivers each event at least once, under one id; each endpoint at its own pace.

    What fails is tried again after 5 s, 10 s, 20 s … up to an hour, for 72 hours; then it is given
    up, and shown as such. `run()` is a task of the owner's group and ends when cancelled; a
    delivery that is cut off by that is tried again, by this CORTEX or another.
    """

    def __init__(
        self,
        endpoints: Endpoints,
        store: DeliveryStore,
        notifier: Notifier,
        *,
        first_retry_seconds: float = FIRST_RETRY_SECONDS,
        attempt_seconds: float = ATTEMPT_SECONDS,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._endpoints = endpoints
        self._store = store
        self._notifier = notifier
        self._first_retry_seconds = first_retry_seconds
        self._attempt_seconds = attempt_seconds
        self._now = now
        self._random = random.Random()  # noqa: S311  it spreads, it hides nothing

    async def run(self) -> None:
        """Deliver what is due, until cancelled."""
        async with (
            # An answer that leads elsewhere is a failure: only what was set up is called.
            httpx2.AsyncClient(timeout=self._attempt_seconds, follow_redirects=False) as client,
            asyncio.TaskGroup() as group,
        ):
            for name in self._endpoints:
                group.create_task(self._serve(client, name), name=f"webhook-{name}")

    async def _serve(self, client: httpx2.AsyncClient, name: str) -> None:
        with self._notifier.subscribe(WEBHOOKS_TOPIC) as ear:
            while True:
                ear.clear()
                try:
                    due = await self._store.next_due(name)
                    left = LOOK_SECONDS if due is None else due - self._now()
                    if left <= 0:
                        await self._deliver_due(client, name)
                except CortexError as error:
                    _log.warning("webhook.storage_unavailable", error=error.message)
                    left = LOOK_SECONDS
                await ear.wait(min(LOOK_SECONDS, max(SHORTEST_PAUSE_SECONDS, left)))

    async def _deliver_due(self, client: httpx2.AsyncClient, name: str) -> None:
        endpoint = self._endpoints.get(name)
        assert endpoint is not None
        while due := await self._store.claim(name, AT_ONCE, CLAIM_SECONDS):
            async with asyncio.TaskGroup() as group:
                for delivery in due:
                    group.create_task(self._deliver(client, endpoint, delivery))

    async def _deliver(
        self, client: httpx2.AsyncClient, endpoint: WebhookEndpoint, delivery: Delivery
    ) -> None:
        log = _log.bind(endpoint=delivery.endpoint, event_id=delivery.event_id)
        error, gone = await self._attempt(client, endpoint, delivery)
        try:
            if error is None:
                await self._store.delivered(delivery)
                log.info("webhook.delivered", attempts=delivery.attempts)
                return
            pause = self._pause(delivery.attempts)
            if gone or self._now() + pause > delivery.created_at + GIVE_UP_SECONDS:
                await self._store.give_up(delivery, error)
                log.error("webhook.given_up", error=error, attempts=delivery.attempts)
                return
            await self._store.try_later(delivery, pause, error)
            log.warning("webhook.failed", error=error, again_in_seconds=round(pause, 1))
        except CortexError as failure:  # then it is tried again once the claim is over
            log.warning("webhook.storage_unavailable", error=failure.message)

    async def _attempt(
        self, client: httpx2.AsyncClient, endpoint: WebhookEndpoint, delivery: Delivery
    ) -> tuple[str | None, bool]:
        """Send once; say what went wrong, and whether the endpoint wants no more."""
        body = body_of(delivery)
        headers = headers_of(delivery.event_id, body, endpoint.secrets, self._now())
        try:
            async with (
                asyncio.timeout(self._attempt_seconds),
                client.stream("POST", endpoint.url, content=body, headers=headers) as answer,
            ):
                if answer.is_success:
                    return None, False
                return f"It answered {answer.status_code}.", answer.status_code == GONE
        except TimeoutError:
            return f"It did not answer within {self._attempt_seconds:g} s.", False
        except httpx2.HTTPError as error:
            return (str(error) or type(error).__name__)[:MAX_ERROR_CHARACTERS], False

    def _pause(self, attempts: int) -> float:
        """Twice as long each time, and never quite the same for many."""
        pause = self._first_retry_seconds * 2.0 ** min(attempts - 1, 20)
        return min(LONGEST_RETRY_SECONDS, pause) * self._random.uniform(0.8, 1.2)
