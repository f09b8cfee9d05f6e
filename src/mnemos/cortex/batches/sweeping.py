"""The background duty that takes away files and uploads whose time is over."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress

import structlog

from mnemos.engram.errors import EngramError

from ..errors import CortexError
from ..ids import new_id
from .objects import FileObjects
from .records import Upload, UploadState
from .store import FilesAndBatches

DUTY = "files"
INTERVAL_SECONDS = 30.0
OWNED_SECONDS = 90.0
STEP = 50
PAUSE_SECONDS = 0.05
FILE_GRACE_SECONDS = 60.0
"""An expired file is shown no more at once, and goes so long after: a batch may just begin."""
UPLOAD_GRACE_SECONDS = 600.0
"""So long after its hour is over a part of an upload may still be written."""
DELIVERIES_KEPT_SECONDS = 7 * 86_400.0

_log = structlog.get_logger(__name__)


class FileSweeper:
    """Takes away what has expired, a few at a time; of many CORTEXes one does it.

    An object goes before its row, so that nothing is forgotten where one of them is killed.
    `run()` is a task of the owner's group and ends when cancelled; `run_once()` is one round.
    """

    def __init__(
        self,
        store: FilesAndBatches,
        files: FileObjects,
        now: Callable[[], float] = time.time,
        interval_seconds: float = INTERVAL_SECONDS,
    ) -> None:
        self._store = store
        self._files = files
        self._now = now
        self._interval_seconds = interval_seconds
        self._owner = new_id("sweeper")

    async def run(self) -> None:
        """Look again and again, until cancelled; what fails is tried again later."""
        try:
            while True:
                try:
                    await self.run_once()
                except (CortexError, EngramError) as error:
                    _log.warning("files.not_swept", error=error.message)
                await asyncio.sleep(self._interval_seconds)
        finally:
            with suppress(CortexError):  # then others wait until its time is over
                await self._store.duties.leave(self._owner)

    async def run_once(self) -> int:
        """Take away all that is due, unless another does; return how many files and uploads."""
        swept = 0
        while await self._store.duties.own(DUTY, self._owner, OWNED_SECONDS):
            done = await self.sweep()
            if not done:
                break
            swept += done
            await asyncio.sleep(PAUSE_SECONDS)
        if swept:
            _log.info("files.swept", count=swept)
        return swept

    async def sweep(self) -> int:
        """Take one step; return how many files and uploads it was about."""
        done = await self._sweep_files() + await self._clean_uploads()
        await self._store.deliveries.forget(self._now() - DELIVERIES_KEPT_SECONDS, STEP)
        return done

    async def _sweep_files(self) -> int:
        old = await self._store.expired_files(self._now() - FILE_GRACE_SECONDS, STEP)
        swept = 0
        for file_id in old:
            try:
                await self._files.remove(file_id)
            except EngramError as error:
                if error.retryable:  # so would the others, one after another
                    raise
                _log.warning("file.stays", file_id=file_id, error=error.message)
                continue
            await self._store.remove_file(file_id)
            swept += 1
        return swept

    async def _clean_uploads(self) -> int:
        due = await self._store.uploads_to_clean(self._now(), STEP)
        for upload in due:
            await clean_upload(self._store, self._files, upload, self._now())
        return len(due)


async def clean_upload(
    store: FilesAndBatches, files: FileObjects, upload: Upload, now: float
) -> None:
    """Remove the parts of an upload that has ended, and forget it once none can come any more.

    Raises EngramError, CortexError; then it is done again.
    """
    if upload.state is UploadState.PENDING:
        return
    await files.remove_parts(upload.upload_id)
    end = upload.expires_at + UPLOAD_GRACE_SECONDS
    await store.cleaned(upload.upload_id, end if now < end else None)
