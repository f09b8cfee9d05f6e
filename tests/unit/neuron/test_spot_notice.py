"""Each provider's metadata service, by a local stand-in that answers as it does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import httpx2
import pytest
from fake_metadata import FakeMetadata, serving_metadata

from neuron.services.spot_notice import AwsSource, AzureSource, GcpSource, SpotNoticeService


@pytest.fixture
async def metadata() -> AsyncIterator[FakeMetadata]:
    async with serving_metadata() as metadata:
        yield metadata


class Worker:
    """Notes that it shall leave."""

    def __init__(self) -> None:
        self.told = asyncio.Event()
        self.reason = ""
        self.deadline = -1.0

    def request_stop(self, reason: str, *, deadline_seconds: float | None = None) -> None:
        assert deadline_seconds is not None
        self.reason, self.deadline = reason, deadline_seconds
        self.told.set()


@asynccontextmanager
async def listening(source: Any) -> AsyncIterator[Worker]:
    worker = Worker()
    service = SpotNoticeService(source, worker, after_error_seconds=0.01)
    source.pause_seconds = 0.01
    async with asyncio.timeout(10), asyncio.TaskGroup() as tasks:
        await service.start(tasks)
        yield worker
        await service.stop()


def in_seconds(seconds: float) -> datetime:
    return datetime.now(UTC) + timedelta(seconds=seconds)


async def test_aws_tells_the_time(metadata: FakeMetadata) -> None:
    async with listening(AwsSource(metadata.url)) as worker:
        await metadata.asked.wait()
        at = in_seconds(100).strftime("%Y-%m-%dT%H:%M:%SZ")
        metadata.notice = {"action": "terminate", "time": at}
        await worker.told.wait()

    assert 90 < worker.deadline <= 100
    assert "terminate" in worker.reason


async def test_aws_is_asked_for_a_new_token_when_the_old_one_has_run_out(
    metadata: FakeMetadata,
) -> None:
    source = AwsSource(metadata.url)
    async with httpx2.AsyncClient() as client:
        assert await source.ask(client) is None
        metadata.tokens = 5
        metadata.notice = {"action": "stop", "time": "2020-01-01T00:00:00Z"}
        notice = await source.ask(client)

    assert notice is not None
    assert notice.seconds_left == 0
    assert metadata.tokens == 6


async def test_google_answers_by_a_change(metadata: FakeMetadata) -> None:
    async with listening(GcpSource(metadata.url)) as worker:
        while len(metadata.waits) < 2:
            metadata.asked.clear()
            await metadata.asked.wait()
        assert not worker.told.is_set()
        metadata.notice = True
        metadata.changed.set()
        await worker.told.wait()

    assert worker.deadline == 30
    assert metadata.waits == ["0", "one"]


def azure_event(**more: Any) -> dict[str, Any]:
    return {
        "EventId": "1",
        "EventType": "Preempt",
        "ResourceType": "VirtualMachine",
        "Resources": ["vm-6", "vm-7"],
        "EventStatus": "Scheduled",
        "NotBefore": format_datetime(in_seconds(60), usegmt=True),
        **more,
    }


@pytest.mark.parametrize(
    ("more", "least", "most"),
    [
        ({}, 50, 60),
        ({"EventType": "Terminate"}, 50, 60),
        ({"NotBefore": ""}, 30, 30),
        ({"EventStatus": "Started", "NotBefore": ""}, 0, 0),
    ],
)
async def test_azure_tells_of_this_machine(
    metadata: FakeMetadata, more: dict[str, Any], least: float, most: float
) -> None:
    async with listening(AzureSource(metadata.url)) as worker:
        metadata.notice = [azure_event(EventType="Freeze"), azure_event(**more)]
        await worker.told.wait()

    assert least <= worker.deadline <= most


@pytest.mark.parametrize("more", [{"Resources": ["vm-6"]}, {"EventType": "Reboot"}])
async def test_azure_events_that_end_not_this_machine_are_none_of_ours(
    metadata: FakeMetadata, more: dict[str, Any]
) -> None:
    metadata.notice = [azure_event(**more)]

    async with httpx2.AsyncClient() as client:
        assert await AzureSource(metadata.url).ask(client) is None


async def test_a_service_that_fails_is_logged_once_and_asked_again(
    metadata: FakeMetadata, capsys: pytest.CaptureFixture[str]
) -> None:
    metadata.broken = True
    async with listening(AzureSource(metadata.url)) as worker:
        for _ in range(3):
            metadata.asked.clear()
            await metadata.asked.wait()
        metadata.notice = [azure_event()]
        metadata.broken = False
        await worker.told.wait()

    assert capsys.readouterr().out.count("spot_metadata_unreachable") == 1


async def test_nonsense_is_no_notice(metadata: FakeMetadata) -> None:
    metadata.notice = [{"EventType": "Preempt"}]
    service = SpotNoticeService(AzureSource(metadata.url), Worker())

    async with httpx2.AsyncClient() as client:
        assert await service.run_once(client) is None
