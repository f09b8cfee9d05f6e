"""API keys over HTTP: who is let in, what is whose, and how much of it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
from cortex_tools import Cortex, eventually, running_cortex
from pydantic import SecretStr
from structlog.testing import capture_logs

from mnemos.cortex.errors import StartError
from mnemos.cortex.server import CortexServer
from mnemos.cortex.settings import CortexSettings
from mnemos.protocol.v1 import cortex_pb2 as pb

OPERATOR = "the-operators-own-key-0001"


class Keyring:
    """A running CORTEX, its operator, and clients with keys that the operator made."""

    def __init__(self, cortex: Cortex, operator: httpx2.AsyncClient) -> None:
        self.cortex = cortex
        self.operator = operator
        self.clients: list[httpx2.AsyncClient] = []
        self.secrets: list[str] = []

    async def make(self, name: str, **fields: Any) -> httpx2.AsyncClient:
        """Make a key and return a client that sends it."""
        made = await self.operator.post("/api/v1/keys", json={"name": name, **fields})
        assert made.status_code == 201, made.text
        self.secrets.append(made.json()["secret"])
        client = client_of(self.cortex.server.http_url, made.json()["secret"])
        self.clients.append(client)
        return client


def client_of(url: str, secret: str) -> httpx2.AsyncClient:
    headers = {"authorization": f"Bearer {secret}"}
    return httpx2.AsyncClient(base_url=url, headers=headers, timeout=20)


@asynccontextmanager
async def keyring(settings: CortexSettings) -> AsyncIterator[Keyring]:
    async with running_cortex(settings) as cortex:
        operator = client_of(cortex.server.http_url, OPERATOR)
        ring = Keyring(cortex, operator)
        try:
            yield ring
        finally:
            for client in (operator, *ring.clients):
                await client.aclose()


@pytest.fixture(params=["sqlite", "postgres"])
def settings(request: pytest.FixtureRequest, tmp_path: Path) -> CortexSettings:
    url = None
    if request.param == "postgres":
        url = SecretStr(request.getfixturevalue("postgres_url"))
    return settings_of(tmp_path, database_url=url)


def settings_of(root: Path, **changes: Any) -> CortexSettings:
    fields: dict[str, Any] = {
        "data_dir": root / "cortex",
        "http_port": 0,
        "grpc_port": 0,
        "admin_key": SecretStr(OPERATOR),
    }
    return CortexSettings(**{**fields, **changes})


@pytest.fixture
async def ring(settings: CortexSettings) -> AsyncIterator[Keyring]:
    async with keyring(settings) as ring:
        yield ring


@pytest.fixture
async def here(tmp_path: Path) -> AsyncIterator[Keyring]:
    """The same on SQLite alone, for what no database has a part in."""
    async with keyring(settings_of(tmp_path)) as ring:
        yield ring


def code_of(answer: httpx2.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]


async def test_what_is_submitted_with_a_key_is_its_own(ring: Keyring) -> None:
    alice, bob = await ring.make("alice"), await ring.make("bob")
    body = ring.cortex.body(group="mine", idempotency_key="first")
    first = (await alice.post("/api/v1/jobs", json=body)).json()
    other = (await bob.post("/api/v1/jobs", json=body)).json()
    assert first["job_id"] != other["job_id"]
    assert (first["group"], first["idempotency_key"]) == ("mine", "first")
    again = await alice.post("/api/v1/jobs", json=body)
    assert (again.status_code, again.json()["job_id"]) == (200, first["job_id"])

    hers = f"/api/v1/jobs/{first['job_id']}"
    assert (await alice.get(hers)).status_code == 200
    for method, path in (
        ("GET", hers),
        ("GET", f"{hers}/result"),
        ("GET", f"{hers}/stream"),
        ("POST", f"{hers}/cancel"),
        ("POST", f"{hers}/retry"),
        ("DELETE", hers),
    ):
        assert code_of(await bob.request(method, path)) == (404, "job_not_found")
    for client, job in ((alice, first), (bob, other)):
        listed = (await client.get("/api/v1/jobs", params={"group": "mine"})).json()["jobs"]
        assert [one["job_id"] for one in listed] == [job["job_id"]]
        group = await client.get("/api/v1/groups/mine/results", params={"wait_seconds": 0})
        assert group.json()["counts"]["total"] == 1
    assert len((await ring.operator.get("/api/v1/jobs")).json()["jobs"]) == 2
    whole = f"{first['key_id']}:mine"
    seen = await ring.operator.get(f"/api/v1/groups/{whole}/results", params={"wait_seconds": 0})
    assert seen.json()["counts"]["total"] == 1

    assert (await bob.post("/api/v1/groups/mine/cancel")).json() == {"cancelled": 1}
    assert (await alice.get(hers)).json()["status"] == "pending"
    assert (await ring.operator.post(f"{hers}/cancel")).json()["status"] == "cancelled"


async def test_another_body_under_the_same_key_is_a_conflict_in_its_own_words(
    here: Keyring,
) -> None:
    alice = await here.make("alice")
    await alice.post("/api/v1/jobs", json=here.cortex.body(idempotency_key="first"))
    again = await alice.post(
        "/api/v1/jobs", json=here.cortex.body(idempotency_key="first", priority=9)
    )
    assert code_of(again) == (409, "conflict")
    assert "key 'first'" in again.json()["error"]["message"]


async def test_nobody_comes_in_without_a_key_that_is_known(here: Keyring) -> None:
    url = here.cortex.server.http_url
    job = here.cortex.body()
    async with httpx2.AsyncClient(base_url=url) as nobody, client_of(url, "mk-guess") as guest:
        for client in (nobody, guest):
            refused = await client.post("/api/v1/jobs", json=job)
            assert code_of(refused) == (401, "unauthorized")
            assert refused.headers["www-authenticate"] == "Bearer"
            assert refused.headers["x-request-id"]
            assert code_of(await client.get("/v1/models")) == (401, "invalid_api_key")
            assert (await client.get("/anything")).status_code == 401
        for path in ("/health", "/ready", "/metrics", "/openapi.json", "/v1/openapi.json"):
            assert (await nobody.get(path)).status_code == 200
        alice = await here.make("alice")
        key = {"x-api-key": here.secrets[0]}
        assert (await nobody.get("/api/v1/jobs", headers=key)).status_code == 200
        assert (await alice.get("/api/v1/jobs")).status_code == 200


ROUTES = [
    ("submit", "POST", "/api/v1/jobs"),
    ("submit", "POST", "/api/v1/jobs/batch"),
    ("submit", "POST", "/api/v1/jobs/job_x/cancel"),
    ("submit", "DELETE", "/api/v1/jobs/job_x"),
    ("submit", "POST", "/api/v1/groups/g/cancel"),
    ("submit", "POST", "/v1/chat/completions"),
    ("submit", "DELETE", "/v1/files/file_x"),
    ("read", "GET", "/api/v1/jobs/job_x"),
    ("read", "GET", "/api/v1/workers"),
    ("read", "GET", "/v1/models"),
    ("admin", "POST", "/api/v1/jobs/redrive"),
    ("admin", "POST", "/api/v1/workers/wrk_x/drain"),
    ("admin", "GET", "/api/v1/keys"),
    ("admin", "POST", "/api/v1/keys"),
    ("admin", "DELETE", "/api/v1/keys/alice"),
    ("admin", "POST", "/api/v1/something/new"),
]


async def test_each_route_takes_its_scope(here: Keyring) -> None:
    names = ("submit", "read", "admin", "worker")
    clients = {name: await here.make(name, scopes=[name]) for name in names}
    for scope, method, path in ROUTES:
        await refuses_all_but(clients, scope, method, path)


async def refuses_all_but(
    clients: dict[str, httpx2.AsyncClient], scope: str, method: str, path: str
) -> None:
    for name, client in clients.items():
        answer = await client.request(method, path)
        refused = answer.status_code == 403
        assert refused == (name not in (scope, "admin")), (name, method, path, answer.text)
        if refused:
            assert f"the scope {scope}" in answer.json()["error"]["message"]


async def test_a_key_is_changed_disabled_and_deleted(here: Keyring) -> None:
    alice = await here.make("alice", max_waiting_jobs=3)
    path = "/api/v1/keys/alice"
    shown = (await here.operator.get(path)).json()
    assert "secret" not in shown
    assert (shown["scopes"], shown["weight"], shown["max_waiting_jobs"]) == (
        ["read", "submit"],
        1.0,
        3,
    )
    changed = await here.operator.patch(path, json={"weight": 2, "max_waiting_jobs": None})
    assert (changed.json()["weight"], changed.json()["max_waiting_jobs"]) == (2.0, None)
    await here.operator.patch(path, json={"disabled": True})
    refused = await alice.get("/api/v1/jobs")
    assert code_of(refused) == (401, "unauthorized")
    assert "disabled" in refused.json()["error"]["message"]
    await here.operator.patch(path, json={"disabled": False})
    assert (await alice.get("/api/v1/jobs")).status_code == 200
    assert (await here.operator.delete(path)).json()["deleted"] is True
    assert (await alice.get("/api/v1/jobs")).status_code == 401
    assert code_of(await here.operator.get(path)) == (404, "key_not_found")
    twice = [await here.operator.post("/api/v1/keys", json={"name": "bob"}) for _ in range(2)]
    assert [answer.status_code for answer in twice] == [201, 409]


async def test_the_first_key_shuts_the_door_behind_it(tmp_path: Path) -> None:
    async with running_cortex(settings_of(tmp_path, admin_key=None)) as cortex:
        await cortex.submit()
        lost = await cortex.http.post("/api/v1/keys", json={"name": "user"})
        assert code_of(lost) == (409, "conflict")
        made = await cortex.http.post("/api/v1/keys", json={"name": "boss", "scopes": ["admin"]})
        assert made.status_code == 201
        assert (await cortex.http.get("/api/v1/jobs")).status_code == 401
        async with client_of(cortex.server.http_url, made.json()["secret"]) as boss:
            assert len((await boss.get("/api/v1/jobs")).json()["jobs"]) == 1
            assert (await boss.delete("/api/v1/keys/boss")).status_code == 200
        assert (await cortex.http.get("/api/v1/jobs")).status_code == 200


async def test_other_machines_are_not_let_in_without_keys(tmp_path: Path) -> None:
    for host in ("http_host", "grpc_host"):
        exposed = settings_of(tmp_path, admin_key=None, **{host: "0.0.0.0"})  # noqa: S104
        with pytest.raises(StartError, match="CORTEX_AUTH=off"):
            async with CortexServer(exposed):
                pass
    off = settings_of(tmp_path, admin_key=None, auth="off", http_host="0.0.0.0")  # noqa: S104
    async with CortexServer(off) as server, httpx2.AsyncClient() as http:
        answer = await http.get(f"http://127.0.0.1:{server.http_port}/api/v1/jobs")
        assert answer.status_code == 200
    required = settings_of(tmp_path, admin_key=None, auth="required")
    async with running_cortex(required) as cortex:
        assert (await cortex.http.get("/api/v1/jobs")).status_code == 401


async def test_jobs_that_wait_are_limited(here: Keyring) -> None:
    alice = await here.make("alice", max_waiting_jobs=2)
    batch = "/api/v1/jobs/batch"
    [first, _] = (await alice.post(batch, json={"jobs": [here.cortex.body()] * 2})).json()[
        "results"
    ]
    refused = await alice.post("/api/v1/jobs", json=here.cortex.body())
    assert code_of(refused) == (429, "rate_limit_exceeded")
    assert int(refused.headers["retry-after"]) > 0
    assert int(refused.headers["retry-after-ms"]) > 0
    assert refused.headers["x-ratelimit-limit-requests"] == "2"
    assert refused.headers["x-ratelimit-remaining-requests"] == "0"
    await alice.post(f"/api/v1/jobs/{first['job_id']}/cancel")
    assert (await alice.post("/api/v1/jobs", json=here.cortex.body())).status_code == 201
    again = await alice.post(f"/api/v1/jobs/{first['job_id']}/retry")
    assert code_of(again) == (429, "rate_limit_exceeded")
    never = await alice.post(batch, json={"jobs": [here.cortex.body()] * 3})
    assert code_of(never) == (413, "too_large")


async def test_tokens_come_back_that_a_job_did_not_need(ring: Keyring) -> None:
    alice = await ring.make("alice", tokens_per_minute=1000)
    body = ring.cortex.body(input={"prompt": "Hi", "parameters": {"max_tokens": 900}})
    stored = await alice.post("/api/v1/jobs", json=body)
    assert stored.status_code == 201
    left = int(stored.headers["x-ratelimit-remaining-tokens"])
    assert left < 100
    refused = await alice.post("/api/v1/jobs", json=body)
    assert code_of(refused) == (429, "rate_limit_exceeded")
    assert int(refused.headers["retry-after"]) > 10
    await ring.cortex.register()
    [leased] = await ring.cortex.acquire()
    metadata = json.dumps({"prompt_tokens": 2, "tokens_generated": 3})
    await ring.cortex.report(
        pb.JobResult(
            job_id=leased.job.job_id,
            attempt=1,
            status=pb.JOB_STATUS_COMPLETED,
            output=pb.JobOutput(result_json='"Hi"', metadata_json=metadata),
        )
    )
    await ring.cortex.server.quotas.settle()
    assert (await alice.post("/api/v1/jobs", json=body)).status_code == 201


async def test_what_one_replica_is_told_all_know(tmp_path: Path, postgres_url: str) -> None:
    def replica(name: str) -> CortexSettings:
        return settings_of(tmp_path / name, database_url=SecretStr(postgres_url))

    async with keyring(replica("one")) as one, CortexServer(replica("two")) as two:
        await one.make("alice")
        async with client_of(two.http_url, one.secrets[0]) as there:
            assert (await there.get("/api/v1/jobs")).status_code == 200
            await one.operator.patch("/api/v1/keys/alice", json={"disabled": True})

            async def refused() -> bool:
                return (await there.get("/api/v1/jobs")).status_code == 401

            await eventually(refused, "the other replica knows that the key is disabled")


async def test_secrets_are_told_nowhere(tmp_path: Path) -> None:
    with capture_logs() as logged:
        async with keyring(settings_of(tmp_path)) as here:
            shown = await everything_shown(here)
            [key] = await here.cortex.server.store.keys.list_keys()
    shown += repr(logged)
    assert "alice" in shown
    for hidden in (here.secrets[0], OPERATOR, key.secret_hash):
        assert hidden not in shown


async def everything_shown(here: Keyring) -> str:
    """Answers of all kinds, and what a debugger or a traceback would print."""
    alice = await here.make("alice", scopes=["read"])
    async with client_of(here.cortex.server.http_url, f"{here.secrets[0]}x") as guest:
        answers = [
            await alice.post("/api/v1/jobs", json=here.cortex.body()),
            await guest.get("/api/v1/jobs"),
            await guest.get("/v1/models"),
            await here.operator.get("/api/v1/keys"),
            await here.operator.get("/metrics"),
        ]
    server = here.cortex.server
    [key] = await server.store.keys.list_keys()
    told = [answer.text + json.dumps(dict(answer.headers)) for answer in answers]
    return "".join(told) + repr([key, key.principal, vars(server), vars(server.keys)["_policy"]])
