"""Models' files for all who need them: one download each, and all are told how far it is."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import (
    AbstractAsyncContextManager,
    AsyncExitStack,
    asynccontextmanager,
    contextmanager,
)
from typing import Protocol

import structlog

from ..utils.metrics import WorkerMetrics
from ..utils.signal import ChangeSignal
from .load_progress import TELL_SECONDS, LoadProgress, OnProgress, TransferMeter
from .model_loader import ModelInUse

logger = structlog.get_logger(__name__)

LOG_SECONDS = 5.0
_MB = 1e6


class HoldingLoader(Protocol):
    """Who brings files and keeps them here; ModelLoaderService is one."""

    def using(
        self,
        family: str,
        version: str,
        on_progress: Callable[[str], None] | None = None,
        on_transfer: Callable[[int, int], None] | None = None,
    ) -> AbstractAsyncContextManager[ModelInUse]: ...


class ModelFiles:
    """Holds models' files for engines, and says how a download goes on to all who wait for it.

    Belongs to one event loop.
    """

    def __init__(self, loader: HoldingLoader, metrics: WorkerMetrics | None = None) -> None:
        self.changed = ChangeSignal()
        """Notified whenever somebody begins or ends to wait for a model, or a download begins."""
        self._loader = loader
        self._metrics = metrics
        self._downloads: dict[str, Download] = {}

    @asynccontextmanager
    async def using(
        self, family: str, version: str, on_progress: OnProgress
    ) -> AsyncIterator[ModelInUse]:
        """Have a model's files here, and keep them here until the block ends.

        `on_progress` hears of their download, whoever began it. Raises as the loader does.
        """
        async with AsyncExitStack() as stack:
            with self._waiting(f"{family}:{version}", on_progress) as download:
                held = await stack.enter_async_context(
                    self._loader.using(family, version, download.say, download.transferred)
                )
                download.is_complete = True
            yield held

    def is_wanted(self, model: str) -> bool:
        """Whether somebody waits for the files of `family:version`."""
        return model in self._downloads

    @property
    def is_downloading(self) -> bool:
        """Whether bytes are on their way that somebody waits for."""
        return any(download.meter.has_begun for download in self._downloads.values())

    @contextmanager
    def _waiting(self, model: str, on_progress: OnProgress) -> Iterator[Download]:
        download = self._downloads.get(model)
        if download is None:
            download = self._downloads[model] = Download(model, self.changed.notify)
        download.join(on_progress)
        self.changed.notify()
        try:
            yield download
        finally:
            download.leave(on_progress)
            if not download.has_listeners:
                self._end(download)
            self.changed.notify()

    def _end(self, download: Download) -> None:
        del self._downloads[download.model]
        if self._metrics is not None and download.is_complete and download.meter.has_begun:
            self._metrics.load_phase_seconds.labels("download").observe(download.meter.seconds)


class Download:
    """One model that is on its way to this disk, with all who wait for it."""

    def __init__(self, model: str, on_begin: Callable[[], None]) -> None:
        self.model = model
        self.meter = TransferMeter()
        self.is_complete = False
        self._on_begin = on_begin
        self._listeners: Counter[OnProgress] = Counter()
        self._last: LoadProgress | None = None
        self._logged_at = 0.0
        self._said = ""
        self._said_at = 0.0

    @property
    def has_listeners(self) -> bool:
        """Whether anybody waits for it."""
        return bool(self._listeners)

    def join(self, listener: OnProgress) -> None:
        """Let one more wait for it, and hear how far it is."""
        self._listeners[listener] += 1
        if self._last is not None:
            listener(self._last)

    def leave(self, listener: OnProgress) -> None:
        """Let one wait no more."""
        self._listeners[listener] -= 1
        self._listeners += Counter()  # without those that are 0

    def say(self, sentence: str) -> None:
        """Hear why it does not begin; once it has, bytes say more.

        Of sentences that differ in their numbers alone, one is told in a second.
        """
        if self.meter.has_begun:
            return
        now = asyncio.get_running_loop().time()
        kind = sentence.rstrip(" %0123456789")
        counts_on = kind == self._said
        if counts_on and now - self._said_at < TELL_SECONDS:
            return
        self._said, self._said_at = kind, now
        self._tell(LoadProgress(sentence, counts_on=counts_on))

    def transferred(self, done: int, total: int) -> None:
        """Hear of bytes; cheap, and may be called as often as there are some."""
        begins = not self.meter.has_begun
        if self.meter.note(done, total):
            self._tell(self.meter.progress())
        now = asyncio.get_running_loop().time()
        if begins:
            self._logged_at = now
            self._on_begin()
        elif now - self._logged_at >= LOG_SECONDS:
            self._logged_at = now
            self._log()

    def _tell(self, progress: LoadProgress) -> None:
        self._last = progress
        for listener in list(self._listeners):
            listener(progress)

    def _log(self) -> None:
        meter = self.meter
        rate, left = meter.bytes_per_second, meter.seconds_left
        logger.info(
            "model_downloading",
            model=self.model,
            percent=meter.percent,
            mb_per_second=None if rate is None else round(rate / _MB, 1),
            seconds_left=None if left is None else round(left),
        )
