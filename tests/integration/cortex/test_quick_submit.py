"""The quick way to submit a job answers as the route does, whatever it is sent."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from mnemos.cortex.api.app import create_app
from mnemos.cortex.api.context import ApiContext
from mnemos.cortex.api.quick_submit import QuickSubmit
from mnemos.cortex.errors import StorageUnavailableError
from mnemos.cortex.notifier import LocalNotifier
from mnemos.cortex.openai.abandoned import Abandoned
from mnemos.cortex.records import NewJob, Submitted
from mnemos.cortex.sql.sqlite_store import SqliteStore
from mnemos.cortex.telemetry import CortexMetrics

MODEL = {"family": "tiny", "version": "1", "runtime": "transformers"}
SOUND = {"model": MODEL, "input": {"prompt": "Hello"}}
JSON = {"content-type": "application/json"}


class Store(SqliteStore):
    """A store that can refuse, and remembers what it was asked."""

    def __init__(self, *given: Any, **more: Any) -> None:
        super().__init__(*given, **more)
        self.away = False
        self.submits = 0

    async def submit(self, jobs: Any) -> list[Submitted]:
        self.submits += 1
        if self.away:
            raise StorageUnavailableError("The database is away.")
        return await super().submit(jobs)


@pytest.fixture
async def context(tmp_path: Path) -> AsyncIterator[ApiContext]:
    notifier = LocalNotifier()
    async with Store(tmp_path, notifier) as store:
        yield ApiContext(store, notifier, CortexMetrics(), Abandoned(store))


class Ways:
    """The application twice: once with the quick way, once without."""

    def __init__(self, context: ApiContext, monkeypatch: pytest.MonkeyPatch) -> None:
        self._context = context
        self._patch = monkeypatch
        self.quick = 0
        answer = QuickSubmit._answer

        async def counted(quick: QuickSubmit, scope: Any, new: NewJob) -> Any:
            self.quick += 1
            return await answer(quick, scope, new)

        monkeypatch.setattr(QuickSubmit, "_answer", counted)

    async def ask(self, content: Any, headers: Any, path: str) -> httpx2.Response:
        transport = httpx2.ASGITransport(create_app(self._context))
        async with httpx2.AsyncClient(transport=transport, base_url="http://cortex") as http:
            return await http.post(path, content=content, headers=headers)

    async def both(
        self, content: Any, headers: Any = JSON, path: str = "/api/v1/jobs"
    ) -> tuple[httpx2.Response, httpx2.Response]:
        quick = await self.ask(content, headers, path)
        with self._patch.context() as patch:
            patch.setattr("mnemos.cortex.api.quick_submit.PATH", "/never")
            return quick, await self.ask(content, headers, path)


@pytest.fixture
def ways(context: ApiContext, monkeypatch: pytest.MonkeyPatch) -> Ways:
    return Ways(context, monkeypatch)


def shown(answer: httpx2.Response) -> tuple[int, dict[str, str], Any]:
    """An answer without what is another each time."""
    headers = dict(answer.headers)
    for name in ("x-request-id", "content-length"):
        assert headers.pop(name)
    body = answer.json()
    for name in ("job_id", "submitted_at"):
        assert body.pop(name, "left out") is not None
    return answer.status_code, headers, body


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"group": "g", "priority": 9, "trace": "t", "metadata": {"é": None, "b": [1.5, True]}},
        {"requirements": {"min_memory_mb": 7, "tags": {"b": "2", "a": "1"}}},
        {"retry_config": {"max_retries": 0, "retryable_codes": ["timeout"]}},
        {"input": {"messages": [{"role": "user", "content": "漢"}], "parameters": {"stop": "x"}}},
        {"model": {**MODEL, "runtime_config": {"dtype": "float16"}}},
        {"job_type": "batch_inference", "input": {"inputs": ["a", {"prompt": "b"}]}},
        {"idempotency_key": "k"},
    ],
)
async def test_sound_jobs_go_the_quick_way_and_are_answered_alike(
    ways: Ways, changes: dict[str, Any]
) -> None:
    quick, slow = await ways.both(json.dumps({**SOUND, **changes}))

    assert ways.quick == 1
    assert quick.status_code == 201
    if "idempotency_key" in changes:
        assert slow.status_code == 200
        assert slow.json() == quick.json()
    else:
        assert shown(quick) == shown(slow)


@pytest.mark.parametrize(
    ("content", "headers"),
    [
        ("", JSON),
        ("{", JSON),
        ("null", JSON),
        ("[]", JSON),
        ("[" * 50_000, JSON),
        (b"\xff", JSON),
        ("9" * 5000, JSON),
        (json.dumps({**SOUND, "more": 1}), JSON),
        (json.dumps({**SOUND, "priority": "5"}), JSON),
        (json.dumps({**SOUND, "priority": True}), JSON),
        (json.dumps({**SOUND, "timeout_seconds": 0}), JSON),
        (json.dumps({**SOUND, "job_type": "training"}), JSON),
        (json.dumps({**SOUND, "metadata": {"a": float("nan")}}), JSON),
        (json.dumps({**SOUND, "metadata": {"a": "\udcff"}}), JSON),
        (json.dumps({**SOUND, "model": {"family": "tiny"}}), JSON),
        (json.dumps({**SOUND, "input": {"prompt": "a", "parameters": {"heat": 1}}}), JSON),
        (json.dumps({**SOUND, "input": {"prompt": "x" * 3_200_000}}), JSON),
        (json.dumps({**SOUND, "idempotency_key": "a"}), {**JSON, "idempotency-key": "b"}),
        (json.dumps(SOUND), {**JSON, "idempotency-key": ""}),
        (json.dumps(SOUND), {**JSON, "idempotency-key": "x" * 257}),
        (json.dumps({**SOUND, "priority": 0}), {**JSON, "idempotency-key": "x" * 257}),
        (json.dumps(SOUND), {"content-type": "text/plain"}),
        (json.dumps(SOUND), {}),
    ],
)
async def test_whatever_is_wrong_is_said_in_the_route_s_words(
    ways: Ways, context: ApiContext, content: Any, headers: dict[str, str]
) -> None:
    quick, slow = await ways.both(content, headers)

    assert ways.quick == 0
    assert 400 <= quick.status_code < 500, quick.text
    assert shown(quick) == shown(slow)
    assert context.store.submits == 0  # type: ignore[attr-defined]  # the store above


@pytest.mark.parametrize(
    "headers",
    [
        {"content-type": "application/json; charset=utf-8"},
        {"content-type": "application/vnd.api+json"},
        [("content-type", "application/json"), ("idempotency-key", "a"), ("idempotency-key", "b")],
    ],
)
async def test_odd_headers_mean_what_they_mean_to_the_route(ways: Ways, headers: Any) -> None:
    quick, slow = await ways.both(json.dumps(SOUND), headers)

    assert {quick.status_code, slow.status_code} <= {200, 201}
    assert quick.json()["idempotency_key"] == slow.json()["idempotency_key"]


async def test_a_conflict_and_a_database_that_is_away_are_told_alike(
    ways: Ways, context: ApiContext
) -> None:
    keyed = {**JSON, "idempotency-key": "k"}
    first, again = await ways.both(json.dumps(SOUND), keyed)
    assert (first.status_code, again.status_code) == (201, 200)
    quick, slow = await ways.both(json.dumps({**SOUND, "priority": 1}), keyed)
    assert quick.status_code == 409
    assert shown(quick) == shown(slow)

    context.store.away = True  # type: ignore[attr-defined]  # the store above
    quick, slow = await ways.both(json.dumps(SOUND))

    assert quick.status_code == 503
    assert quick.headers["retry-after"]
    assert shown(quick) == shown(slow)


@pytest.mark.parametrize("path", ["/api/v1/jobs/batch", "/api/v1/jobs/", "/api/v1/jobs?a=1"])
async def test_other_paths_are_not_its_own(ways: Ways, path: str) -> None:
    quick, slow = await ways.both(json.dumps(SOUND), path=path)

    assert quick.status_code == slow.status_code
    assert ways.quick == ("?" in path)


async def test_a_body_in_pieces_is_read_whole(ways: Ways) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for byte in json.dumps(SOUND).encode():
            yield bytes([byte])

    answer = await ways.ask(pieces(), JSON, "/api/v1/jobs")

    assert answer.status_code == 201
    assert ways.quick == 1
