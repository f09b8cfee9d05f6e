"""CORTEX, put together: one store, two ports, two background duties, one task group."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Any, Self

import structlog
from pydantic import SecretStr

from mnemos.bearer import hash_of
from mnemos.engram.errors import InvalidKeyError
from mnemos.engram.store import ObjectStore
from mnemos.http import Certificate, HttpServer

from .api.app import create_app
from .api.context import ApiContext, BatchParts
from .batches.counting import LineCounter
from .batches.driver import BatchDriver
from .batches.objects import FileObjects
from .batches.sweeping import FileSweeper
from .big_results import ResultObjects
from .clock import Clock
from .errors import StartError, StorageUnavailableError
from .genome_lookup import GenomeCatalog
from .grpc.server import GrpcServer
from .grpc.service import CortexService
from .grpc.tokens import WorkerTokens
from .keys.directory import AuthPolicy, KeyDirectory
from .keys.quotas import Quotas
from .keys.records import ApiKey
from .notifier import LocalNotifier
from .openai.abandoned import Abandoned
from .reaper import DelayedJobPromoter, LeaseReaper
from .retention import RetentionPruner
from .settings import CortexSettings
from .sql.choice import open_store
from .suspicion import Suspector
from .telemetry import CortexMetrics
from .tls import tls_of
from .webhooks.endpoints import Endpoints
from .webhooks.sender import WebhookSender

GRPC_GRACE_SECONDS = 1.0
"""Workers keep their streams open, so that this is waited for; a call takes milliseconds."""

_log = structlog.get_logger(__name__)


class CortexServer:
    """A running CORTEX, as an async context manager.

    Entered, it answers on `http_port` and `grpc_port` (drawn where the settings say 0). It raises
    StartError or PortUnavailableError, with nothing left behind, when it cannot. Leaving, or
    cancelling the task that entered, stops taking calls, ends long-polls at once, commits what was
    asked for and gives everything back within `shutdown_grace_seconds` and a little.
    """

    def __init__(self, settings: CortexSettings, *, clock: Clock | None = None) -> None:
        self._settings = settings
        self._clock = clock
        self._stack = AsyncExitStack()
        self.notifier = LocalNotifier()
        self.metrics = CortexMetrics()
        self.store = open_store(settings, self.notifier, clock=clock, measure=self.metrics.measure)
        interval = min(1.0, settings.lease_seconds / 5)
        self.reaper = LeaseReaper(self.store, interval_seconds=interval)
        self.promoter = DelayedJobPromoter(self.store, self.notifier)
        self.suspector = Suspector(
            self.store,
            seconds=settings.suspicion_seconds,
            expire_in=self.reaper.expire_in,
        )
        self.keys = KeyDirectory(
            self.store.keys, self.notifier, _policy(settings), self._keys_changed
        )
        self.quotas = Quotas(self.keys.get, self.store.waiting_of, self.store.keys.tokens_spent)
        self._tls = tls_of(settings)
        self.http_port = 0
        self.grpc_port = 0

    @property
    def _http_certificate(self) -> Certificate | None:
        return self._tls.certificate if self._tls and self._settings.http_tls else None

    @property
    def http_url(self) -> str:
        """Where the HTTP API answers."""
        scheme = "https" if self._http_certificate else "http"
        return f"{scheme}://{_bracketed(self._settings.http_host)}:{self.http_port}"

    @property
    def grpc_address(self) -> str:
        """Where workers dial."""
        return f"{_bracketed(self._settings.grpc_host)}:{self.grpc_port}"

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            await self._start(stack)
            self._stack = stack.pop_all()
        _log.info("cortex.ready", http=self.http_url, grpc=self.grpc_address)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._stack.__aexit__(kind, error, traceback)
        _log.info("cortex.stopped")

    async def _start(self, stack: AsyncExitStack) -> None:
        settings = self._settings
        await stack.enter_async_context(self.store)
        await self._check_access()
        catalog = None
        if settings.genome_url:
            catalog = await stack.enter_async_context(
                GenomeCatalog(settings.genome_url, token=_text(settings.genome_token))
            )
        engram = _engram(settings)
        results = ResultObjects(engram, settings.result_bucket) if engram else None
        batches = self._batches(engram) if engram else None
        abandoned = Abandoned(self.store)
        context = ApiContext(
            self.store,
            self.notifier,
            self.metrics,
            abandoned,
            catalog,
            results,
            batches,
            keys=self.keys,
            quotas=self.quotas,
        )
        stack.push_async_callback(context.inputs.close)
        app = create_app(context)
        http = HttpServer(
            app,
            settings.http_host,
            settings.http_port,
            setting="CORTEX_HTTP_PORT",
            grace_seconds=settings.shutdown_grace_seconds,
            certificate=self._http_certificate,
        )
        self.http_port = http.bind()
        stack.callback(http.close)
        service = CortexService(
            self.store,
            self.notifier,
            self.suspector,
            lease_seconds=settings.lease_seconds,
            sole=settings.database_url is None,
        )
        grpc = GrpcServer(
            service,
            settings.grpc_host,
            settings.grpc_port,
            setting="CORTEX_GRPC_PORT",
            tokens=self._worker_tokens(),
            tls=self._tls,
        )
        stack.push_async_callback(grpc.stop, 0)
        self.grpc_port = grpc.bind()
        tasks = await stack.enter_async_context(_Background())
        await grpc.start()
        tasks.start(self.reaper.run(), "cortex-reaper")
        tasks.start(self.promoter.run(), "cortex-promoter")
        tasks.start(self.suspector.run(), "cortex-suspector")
        pruner = RetentionPruner(
            self.store,
            results,
            jobs_seconds=settings.retention_seconds,
            logs_seconds=settings.stream_retention_seconds,
            numbers=self.metrics,
        )
        tasks.start(pruner.run(), "cortex-pruner")
        tasks.start(abandoned.run(), "cortex-abandoned-jobs")
        tasks.start(self.keys.run(), "cortex-keys")
        tasks.start(self.quotas.run(), "cortex-quotas")
        if batches is not None:
            sole = settings.database_url is None
            driver = BatchDriver(context, batches.store, batches.files, sole=sole)
            tasks.start(driver.run(), "cortex-batches")
            tasks.start(FileSweeper(batches.store, batches.files).run(), "cortex-files")
            sender = WebhookSender(batches.webhooks, batches.store.deliveries, self.notifier)
            tasks.start(sender.run(), "cortex-webhooks")
        serving = tasks.start(http.serve(), "cortex-http")
        stack.push_async_callback(_stop_http, http, serving)
        stack.push_async_callback(
            grpc.stop, min(GRPC_GRACE_SECONDS, settings.shutdown_grace_seconds)
        )
        stack.callback(self.notifier.close)
        stack.callback(self.suspector.close)
        await http.wait_ready()

    def _batches(self, engram: ObjectStore) -> BatchParts:
        store = self.store.batches
        webhooks = Endpoints(self._settings.webhooks)
        return BatchParts(store, FileObjects(engram), LineCounter(store), webhooks)

    async def _check_access(self) -> None:
        """Raises StartError where others could come in without a key."""
        settings = self._settings
        try:
            await self.keys.read()
        except StorageUnavailableError as error:
            raise StartError(f"The API keys cannot be read: {error.message}") from error
        if settings.auth == "off":
            _log.warning("cortex.keys_off", setting="CORTEX_AUTH", exposed=settings.exposed_hosts)
            return
        known = settings.admin_key is not None or self.keys.exist
        if settings.http_exposed and not known:
            raise StartError(
                f"CORTEX_HTTP_HOST={settings.http_host} lets other machines in, which takes API "
                "keys: set CORTEX_ADMIN_KEY, or say CORTEX_AUTH=off."
            )
        if (
            settings.grpc_exposed
            and settings.workers_need_tokens
            and not (known or settings.worker_token)
        ):
            raise StartError(
                f"CORTEX_GRPC_HOST={settings.grpc_host} lets other machines in, which takes a "
                "token: set CORTEX_WORKER_TOKEN, or say CORTEX_AUTH=off."
            )
        if settings.exposed_hosts and self._tls is None:
            _log.warning("cortex.not_encrypted", hosts=settings.exposed_hosts)

    def _worker_tokens(self) -> WorkerTokens | None:
        settings = self._settings
        if not settings.workers_need_tokens:
            return None
        return WorkerTokens(_text(settings.worker_token), self.keys)

    def _keys_changed(self, keys: Mapping[str, ApiKey]) -> None:
        """Let claims be shared as the keys' weights say."""
        self.store.shares.set_weights({key_id: key.weight for key_id, key in keys.items()})


def _policy(settings: CortexSettings) -> AuthPolicy:
    admin = _text(settings.admin_key)
    return AuthPolicy(
        always=settings.auth == "required" or admin is not None or settings.http_exposed,
        off=settings.auth == "off",
        admin_hash=None if admin is None else hash_of(admin),
    )


def _text(secret: SecretStr | None) -> str | None:
    return None if secret is None else secret.get_secret_value()


def _engram(settings: CortexSettings) -> ObjectStore | None:
    """Raises StartError for settings that name no storage."""
    if not settings.engram_url:
        return None
    endpoint = settings.engram_endpoint
    try:
        return ObjectStore.from_url(
            settings.engram_url,
            endpoint=endpoint,
            access_key=settings.engram_access_key,
            secret_key=settings.engram_secret_key,
            secure=bool(endpoint and endpoint.startswith("https://")),
        )
    except InvalidKeyError as error:
        raise StartError(f"CORTEX_ENGRAM_URL: {error.message}") from error


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


class _Background:
    """A task group whose tasks run until the context ends; the failure of one ends the server."""

    def __init__(self) -> None:
        self._group = asyncio.TaskGroup()
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        await self._group.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for task in self._tasks:
            task.cancel()
        if isinstance(error, asyncio.CancelledError):
            await self._group.__aexit__(kind, error, traceback)
        else:
            # An error of the body goes its own way, not wrapped into a group.
            await self._group.__aexit__(None, None, None)

    def start(self, duty: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        task = self._group.create_task(duty, name=name)
        self._tasks.append(task)
        return task


async def _stop_http(http: HttpServer, serving: asyncio.Task[None]) -> None:
    http.stop()
    await asyncio.wait([serving])
