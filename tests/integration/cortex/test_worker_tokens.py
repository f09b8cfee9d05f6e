"""Workers that show a token, and ports that speak TLS."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
from certificates import Authority
from pydantic import SecretStr

from mnemos.bearer import hash_of
from mnemos.cortex.errors import StartError
from mnemos.cortex.keys.records import ApiKey
from mnemos.cortex.server import CortexServer
from mnemos.cortex.settings import CortexSettings
from neuron.clients.cortex_client import CortexClient
from neuron.clients.cortex_security import CortexSecurity
from neuron.config import Settings
from neuron.errors import ConfigurationError, CortexUnavailableError, NeuronError
from neuron.models.runtime import RuntimeType
from neuron.models.worker import SystemResources, WorkerCapabilities, WorkerRegistration
from neuron.worker import NEURONWorker

TOKEN = "the-token-of-all-workers"


def settings_of(root: Path, **changes: Any) -> CortexSettings:
    return CortexSettings(data_dir=root / "cortex", http_port=0, grpc_port=0, **changes)


@asynccontextmanager
async def client_to(
    server: CortexServer, security: CortexSecurity, seconds: float = 10
) -> AsyncIterator[CortexClient]:
    client = CortexClient(server.grpc_address, seconds, security)
    await client.connect()
    try:
        yield client
    finally:
        await client.close()


async def register(server: CortexServer, security: CortexSecurity, seconds: float = 10) -> str:
    registration = WorkerRegistration(
        hostname="host",
        ip_address="127.0.0.1",
        version="1",
        capabilities=WorkerCapabilities(
            supported_runtimes=[RuntimeType.ECHO],
            max_concurrent_jobs=1,
            supports_streaming=True,
            supports_gpu=False,
            max_model_size_gb=1,
        ),
        resources=SystemResources(
            cpu_count=1,
            cpu_percent=0,
            memory_total_mb=1000,
            memory_available_mb=1000,
            disk_total_gb=1,
            disk_available_gb=1,
        ),
    )
    async with client_to(server, security, seconds) as client:
        return (await client.register_worker(registration)).worker_id


async def make_key(server: CortexServer, secret: str, *scopes: str) -> str:
    key = ApiKey(
        key_id=f"key_{secret}",
        name=secret,
        secret_hash=hash_of(secret),
        scopes=frozenset(scopes),
        created_at=0,
    )
    await server.store.keys.add_key(key, sole_admins=False)
    return key.key_id


async def test_a_worker_shows_the_token_or_a_key_for_workers(tmp_path: Path) -> None:
    async with CortexServer(settings_of(tmp_path, worker_token=SecretStr(TOKEN))) as server:
        key_id = await make_key(server, "for-workers", "worker")
        await make_key(server, "for-jobs", "submit", "read")
        for good in (TOKEN, "for-workers"):
            assert await register(server, CortexSecurity(token=good))
        for bad, reason in (
            (None, "none was sent"),
            ("a-guess", "not one of"),
            ("for-jobs", "lacks the scope worker"),
        ):
            with pytest.raises(ConfigurationError, match=reason):
                await register(server, CortexSecurity(token=bad))
        await server.store.keys.change_key(key_id, {"disabled": True}, sole_admins=False)
        await server.keys.read()
        with pytest.raises(ConfigurationError, match="disabled"):
            await register(server, CortexSecurity(token="for-workers"))


async def test_streams_are_refused_as_single_calls_are(tmp_path: Path) -> None:
    async with CortexServer(settings_of(tmp_path, worker_token=SecretStr(TOKEN))) as server:
        async with client_to(server, CortexSecurity(token="a-guess")) as client:
            with pytest.raises(ConfigurationError):
                await client.carry_work(lambda: None)
            with pytest.raises(ConfigurationError):
                async for _ in client.watch_actions("wrk_a"):
                    pass
        opened: list[bool] = []
        async with client_to(server, CortexSecurity(token=TOKEN)) as client:
            with pytest.raises(NeuronError):
                await client.carry_work(lambda: _note_and_end(opened))
        assert opened == [True]


def _note_and_end(opened: list[bool]) -> None:
    opened.append(True)
    raise CortexUnavailableError("the test has seen enough")


def worker_of(server: CortexServer, root: Path, token: str) -> NEURONWorker:
    return NEURONWorker(
        Settings(
            cortex_grpc_url=server.grpc_address,
            cortex_token=SecretStr(token),
            genome_http_url="http://127.0.0.1:1",
            minio_endpoint=f"file://{root / 'engram'}",
            supported_runtimes=[RuntimeType.ECHO],
            model_cache_dir=root / "cache",
            heartbeat_interval=0.2,
            api_host="127.0.0.1",
            api_port=0,
        )
    )


async def test_a_worker_with_a_wrong_token_ends_with_a_sentence(tmp_path: Path) -> None:
    async with CortexServer(settings_of(tmp_path, worker_token=SecretStr(TOKEN))) as server:
        with pytest.raises(ConfigurationError, match="NEURON_CORTEX_TOKEN"):
            await worker_of(server, tmp_path, "a-guess").start()


async def test_a_worker_ends_whose_key_is_disabled(tmp_path: Path) -> None:
    async with CortexServer(settings_of(tmp_path, worker_token=SecretStr(TOKEN))) as server:
        key_id = await make_key(server, "for-workers", "worker")
        worker = worker_of(server, tmp_path, "for-workers")

        async def disable_once_ready() -> None:
            await worker.ready.wait()
            await server.store.keys.change_key(key_id, {"disabled": True}, sole_admins=False)

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(disable_once_ready())
            with pytest.raises(ConfigurationError, match="for-workers is disabled"):
                await worker.start()


async def test_both_ports_speak_tls(tmp_path: Path) -> None:
    authority, other = Authority(tmp_path), Authority(tmp_path, "other")
    shown = authority.issue("cortex")
    settings = settings_of(
        tmp_path,
        tls_cert=shown.cert,
        tls_key=shown.key,
        admin_key=SecretStr("the-operators-own-key"),
        worker_token=SecretStr(TOKEN),
    )
    async with CortexServer(settings) as server:
        assert server.http_url.startswith("https://")
        trust = ssl.create_default_context(cafile=str(authority.cert))
        async with httpx2.AsyncClient(base_url=server.http_url, verify=trust) as http:
            assert (await http.get("/health")).status_code == 200
            assert (await http.get("/api/v1/jobs")).status_code == 401
        security = CortexSecurity(token=TOKEN, tls=True, ca=authority.cert.read_bytes())
        assert await register(server, security)
        for untrusting in (
            CortexSecurity(token=TOKEN, tls=True, ca=other.cert.read_bytes()),
            CortexSecurity(token=TOKEN),
        ):
            with pytest.raises(CortexUnavailableError):
                await register(server, untrusting, seconds=1)


async def test_workers_show_certificates_where_they_are_asked_for(tmp_path: Path) -> None:
    authority, other = Authority(tmp_path), Authority(tmp_path, "other")
    shown, worker, stranger = (
        authority.issue("cortex"),
        authority.issue("worker"),
        other.issue("stranger"),
    )
    settings = settings_of(
        tmp_path, tls_cert=shown.cert, tls_key=shown.key, tls_client_ca=authority.cert
    )

    def security(**files: Path) -> CortexSecurity:
        named = {f"cortex_{name}": path for name, path in files.items()}
        return CortexSecurity.of(Settings(cortex_ca=authority.cert, **named))  # type: ignore[arg-type]  # three paths

    async with CortexServer(settings) as server:
        assert await register(server, security(cert=worker.cert, key=worker.key))
        for refused in (security(), security(cert=stranger.cert, key=stranger.key)):
            with pytest.raises(CortexUnavailableError):
                await register(server, refused, seconds=1)


async def test_certificates_that_cannot_be_used_are_told_at_the_start(tmp_path: Path) -> None:
    shown = Authority(tmp_path).issue("cortex")
    nothing = tmp_path / "nothing.pem"
    for files, reason in (
        ({"tls_cert": shown.cert}, "go together"),
        ({"tls_client_ca": shown.cert}, "go together"),
        ({"tls_cert": nothing, "tls_key": shown.key}, "No such file"),
        ({"tls_cert": shown.key, "tls_key": shown.key}, "CORTEX_TLS_CERT"),
        ({"tls_cert": shown.cert, "tls_key": shown.key, "tls_client_ca": nothing}, "CLIENT_CA"),
    ):
        with pytest.raises(StartError, match=reason):
            CortexServer(settings_of(tmp_path, **files))
    with pytest.raises(ConfigurationError, match="go together"):
        CortexSecurity.of(Settings(cortex_cert=shown.cert))
    with pytest.raises(ConfigurationError, match="NEURON_CORTEX_CA"):
        CortexSecurity.of(Settings(cortex_ca=nothing))


def test_a_workers_token_is_shown_nowhere() -> None:
    settings = Settings(cortex_token=SecretStr(TOKEN), genome_token=SecretStr(TOKEN))
    shown = f"{settings!r}{settings.shown()}{CortexSecurity.of(settings)!r}"
    assert TOKEN not in shown
