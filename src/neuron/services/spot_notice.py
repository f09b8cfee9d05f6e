"""Hearing from the cloud provider that this machine is about to be taken away."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, ClassVar, Protocol

import httpx2
import structlog

from .service import Service

logger = structlog.get_logger(__name__)

REQUEST_SECONDS = 5.0
AWS_NOTICE_SECONDS = 120.0
GCP_NOTICE_SECONDS = 30.0
GCP_WAIT_SECONDS = 60
AZURE_NOTICE_SECONDS = 30.0
AFTER_ERROR_SECONDS = 5.0


class LeavingHandler(Protocol):
    """Who drains the worker. request_stop() returns at once."""

    def request_stop(self, reason: str, *, deadline_seconds: float | None = None) -> None: ...


@dataclass(frozen=True, slots=True)
class SpotNotice:
    """The machine goes in so many seconds, and why."""

    seconds_left: float
    reason: str


class SpotSource(ABC):
    """One provider's metadata service, at `url` or where it usually is."""

    usual_url: ClassVar[str]
    pause_seconds: ClassVar[float]
    """Between two questions; 0 where the answer itself is waited for."""

    def __init__(self, url: str | None = None) -> None:
        self.url = (url or self.usual_url).rstrip("/")

    @abstractmethod
    async def ask(self, client: httpx2.AsyncClient) -> SpotNotice | None:
        """Return the notice, if there is one now.

        Raises:
            httpx2.HTTPError, ValueError, KeyError: the service does not answer as it should.
        """


class AwsSource(SpotSource):
    """IMDSv2: a session token, then spot/instance-action, which is 404 until there is a notice."""

    usual_url = "http://169.254.169.254"
    pause_seconds = 2.0
    _SESSION: ClassVar = {"X-aws-ec2-metadata-token-ttl-seconds": "21600"}

    def __init__(self, url: str | None = None) -> None:
        super().__init__(url)
        self._token: str | None = None

    async def ask(self, client: httpx2.AsyncClient) -> SpotNotice | None:
        response = await self._get_action(client)
        if response.status_code == httpx2.codes.UNAUTHORIZED:
            self._token = None  # it has run out
            response = await self._get_action(client)
        if response.status_code == httpx2.codes.NOT_FOUND:
            return None
        told = response.raise_for_status().json()
        at = datetime.fromisoformat(told["time"])
        left = min(AWS_NOTICE_SECONDS, _seconds_until(at))
        return SpotNotice(left, f"AWS will {told['action']} this spot instance")

    async def _get_action(self, client: httpx2.AsyncClient) -> httpx2.Response:
        if self._token is None:
            answer = await client.put(f"{self.url}/latest/api/token", headers=self._SESSION)
            self._token = answer.raise_for_status().text
        return await client.get(
            f"{self.url}/latest/meta-data/spot/instance-action",
            headers={"X-aws-ec2-metadata-token": self._token},
        )


class GcpSource(SpotSource):
    """instance/preempted: the first question is answered at once, the next ones by a change."""

    usual_url = "http://metadata.google.internal"
    pause_seconds = 0.0

    def __init__(self, url: str | None = None) -> None:
        super().__init__(url)
        self._etag = "0"

    async def ask(self, client: httpx2.AsyncClient) -> SpotNotice | None:
        response = await client.get(
            f"{self.url}/computeMetadata/v1/instance/preempted",
            params={
                "wait_for_change": "true",
                "last_etag": self._etag,
                "timeout_sec": str(GCP_WAIT_SECONDS),
            },
            headers={"Metadata-Flavor": "Google"},
            timeout=GCP_WAIT_SECONDS + REQUEST_SECONDS,
        )
        value = response.raise_for_status().text.strip().upper()
        if value not in ("TRUE", "FALSE"):
            raise ValueError(f"preempted is TRUE or FALSE, not {value[:40]!r}")
        self._etag = response.headers["etag"]
        if value == "FALSE":
            return None
        return SpotNotice(GCP_NOTICE_SECONDS, "Google Cloud preempts this instance")


class AzureSource(SpotSource):
    """Scheduled events; they name every machine of a set, so this one's own name is asked first."""

    usual_url = "http://169.254.169.254"
    pause_seconds = 1.0
    _ENDINGS = frozenset({"Preempt", "Terminate"})

    def __init__(self, url: str | None = None) -> None:
        super().__init__(url)
        self._name: str | None = None

    async def ask(self, client: httpx2.AsyncClient) -> SpotNotice | None:
        if self._name is None:
            self._name = (await self._get(client, "instance/compute", "2021-02-01"))["name"]
        told = await self._get(client, "scheduledevents", "2020-07-01")
        for event in told["Events"]:
            if event["EventType"] in self._ENDINGS and self._name in event["Resources"]:
                left = _azure_seconds_left(event)
                return SpotNotice(left, f"Azure announced a {event['EventType']} of this machine")
        return None

    async def _get(self, client: httpx2.AsyncClient, what: str, version: str) -> Any:
        response = await client.get(
            f"{self.url}/metadata/{what}",
            params={"api-version": version},
            headers={"Metadata": "true"},
        )
        return response.raise_for_status().json()


SOURCES: Mapping[str, type[SpotSource]] = {"aws": AwsSource, "gcp": GcpSource, "azure": AzureSource}


class SpotNoticeService(Service):
    """Asks until there is a notice, then drains the worker by the provider's deadline.

    A metadata service that does not answer is logged once and asked again; jobs go on.
    """

    name: ClassVar[str] = "spot_notice_service"

    def __init__(
        self,
        source: SpotSource,
        handler: LeavingHandler,
        after_error_seconds: float = AFTER_ERROR_SECONDS,
    ) -> None:
        super().__init__()
        self._source = source
        self._handler = handler
        self._after_error = after_error_seconds
        self._failed = False

    async def run(self) -> None:
        """Ask until cancelled or told; what comes after a notice is the drain's."""
        # The address is this machine's own: no proxy leads there.
        async with httpx2.AsyncClient(timeout=REQUEST_SECONDS, trust_env=False) as client:
            while (notice := await self.run_once(client)) is None:
                pause = self._after_error if self._failed else self._source.pause_seconds
                await asyncio.sleep(pause)
        logger.warning("spot_notice", reason=notice.reason, seconds_left=notice.seconds_left)
        self._handler.request_stop(notice.reason, deadline_seconds=notice.seconds_left)

    async def run_once(self, client: httpx2.AsyncClient) -> SpotNotice | None:
        """Ask once; a failure is no notice."""
        try:
            notice = await self._source.ask(client)
        except (httpx2.HTTPError, ValueError, KeyError, TypeError) as error:
            if not self._failed:
                logger.warning(
                    "spot_metadata_unreachable",
                    url=self._source.url,
                    error=f"{type(error).__name__}: {error}",
                )
            self._failed = True
            return None
        self._failed = False
        return notice


def _azure_seconds_left(event: Mapping[str, Any]) -> float:
    """An event that has begun names no time any more; one that has none yet gives the least."""
    if event.get("EventStatus") == "Started":
        return 0.0
    if not event.get("NotBefore"):
        return AZURE_NOTICE_SECONDS
    return _seconds_until(parsedate_to_datetime(event["NotBefore"]))


def _seconds_until(at: datetime) -> float:
    if at.tzinfo is None:
        at = at.replace(tzinfo=UTC)
    return max(0.0, (at - datetime.now(UTC)).total_seconds())
